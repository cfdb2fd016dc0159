"""The training command with a fault planted in it: at a given moment the process sends itself signals.

    python faulty_train.py PHASE COUNT SIGNALS LOG [options of train ...]

PHASE is one of `PHASES`; at its COUNT-th moment the process writes a line to LOG and sends itself each of SIGNALS
(numbers with commas between).
"""

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

PHASES = ("compilation", "step", "validation", "write", "seal", "commit", "deletion", "record", "drawing", "hang")


class Fault:
    """Strikes once, at the given moment."""

    def __init__(self, count, signals, log):
        self.count, self.signals, self.log = count, signals, log

    def moment(self, phase):
        """Count a moment, and strike if it is the one."""
        self.count -= 1
        if self.count == 0:
            self.strike(phase)

    def strike(self, phase):
        """Write down when and where, and send the signals."""
        with self.log.open("a") as file:
            file.write(json.dumps({"phase": phase, "time": time.monotonic(), "pid": os.getpid()}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for number in self.signals:
            os.kill(os.getpid(), number)


def plant(phase, fault):
    """Change the program so that the fault strikes in a phase."""
    import jax

    from fbunet_jax import figures
    from fbunet_jax.inference import validation
    from fbunet_jax.runs import checkpoints, sealed
    from fbunet_jax.training import logs, parallel

    def before(owner, name):
        original = getattr(owner, name)
        setattr(owner, name, lambda *a, **k: (fault.moment(phase), original(*a, **k))[1])

    def after(owner, name):
        original = getattr(owner, name)

        def call(*arguments, **options):
            result = original(*arguments, **options)
            fault.moment(phase)
            return result

        setattr(owner, name, call)

    if phase == "compilation":  # of the training step, while the compiler is at work in another thread than the timer
        inside = threading.Event()
        original = parallel.MappedTraining.__call__

        def call(*arguments):
            inside.set()
            return original(*arguments)

        parallel.MappedTraining.__call__ = call

        def listen(event, **_):
            if event.endswith("compile_requests_use_cache") and inside.is_set():
                threading.Timer(0.02, fault.moment, [phase]).start()

        jax.monitoring.register_event_listener(listen)
    elif phase == "step":  # dispatched, and not waited for
        after(parallel.MappedTraining, "__call__")
    elif phase == "validation":  # between two batches
        original = validation.MappedValidation.__call__

        def evaluate(self, variables, store, between):
            return original(self, variables, store, lambda: (fault.moment(phase), between()))

        validation.MappedValidation.__call__ = evaluate
    elif phase == "write":  # while Orbax writes: when the first array is on disk, and before the commit, which waits
        if signal.SIGKILL in fault.signals:
            sealed.seal = lambda *_, **__: threading.Event().wait()
        original = sealed.SealedCheckpoints.save

        def save(self, step, *arguments, **options):
            original(self, step, *arguments, **options)
            threading.Thread(target=watch, args=(self._folder, step), daemon=True).start()

        def watch(folder, step):
            while not any(path.is_file() for path in folder.glob(f"{step}.*/**/d/*")):
                if (folder / str(step)).exists():
                    break
            fault.moment(phase)

        sealed.SealedCheckpoints.save = save
    elif phase == "seal":  # everything is written, the seal is not
        before(sealed, "seal")
    elif phase == "commit":  # everything is written and sealed, and not renamed
        after(sealed, "seal")
    elif phase == "deletion":  # in the middle of the files of a checkpoint that is not kept
        delete = sealed.SealedCheckpoints._delete

        def delete_half(self):
            if files := [path for path in self._folder.glob("deleted/**/*") if path.is_file()]:
                files[0].unlink()
                fault.moment(phase)
            delete(self)

        sealed.SealedCheckpoints._delete = delete_half
    elif phase == "record":  # in the middle of a line of metrics.jsonl
        original_append = logs.append_record

        def append(path, record):
            if path.name == "metrics.jsonl":
                line = json.dumps(record)
                if signal.SIGKILL in fault.signals and fault.count == 1:
                    with path.open("a") as file:
                        file.write(line[: len(line) // 2])
                fault.moment(phase)
            original_append(path, record)

        logs.append_record = append
    elif phase == "drawing":
        before(figures, "draw_curves")
    elif phase == "hang":  # the disk hangs; one more signal when the training waits for it
        waits = threading.Event()
        wait = checkpoints.FoldCheckpoints.wait

        def note_and_wait(self):
            waits.set()
            wait(self)
            waits.clear()

        def hang(*_, **__):
            fault.moment(phase)
            waits.wait()
            threading.Event().wait(1.5)  # sooner, it would be taken for the same signal again
            os.kill(os.getpid(), fault.signals[0])
            threading.Event().wait()

        checkpoints.FoldCheckpoints.wait, sealed.seal = note_and_wait, hang
    else:
        raise ValueError(phase)


if __name__ == "__main__":
    # a test waits for 300 s: before that, say where every thread stands
    if sys.stderr:
        faulthandler.dump_traceback_later(240, exit=True)
    from fbunet_jax.cli import main

    # a shell without job control starts its background jobs with Ctrl-C ignored, and the tests may run in one
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, count, signals, log, *options = sys.argv[1:]
    if name != "none":
        plant(name, Fault(int(count), [int(number) for number in signals.split(",")], Path(log)))
    sys.exit(main(["train", *options]))
