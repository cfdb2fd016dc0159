"""Reads mutated files of one kind in a process of its own, and prints what became of them.

    python -m tests.fuzz.worker KIND --seed 0 --count 1000 --out FOLDER
    python -m tests.fuzz.worker KIND --replay FILE FILE

Every input has 5 seconds and 1 GB of resident memory above what the program takes itself. What fails is written to
FOLDER; ``current`` there is the input under way, for when the process dies.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, strategies

from fbunet_jax.errors import UserError
from tests.fuzz.outcomes import FoundError, NotComparedError, WrongAnswerError
from tests.fuzz.targets import TARGETS, Target

SECONDS = 5.0
BYTES = 10**9

RIGHT, UNCOMPARED = "right answer", "answer without a second decoder"
FAILURES = ("undocumented", "wrong answer", "too slow", "too big")


class TooSlow(BaseException):
    """The alarm of an input; what catches every Exception does not catch it."""


def _alarm(signum, frame):
    raise TooSlow


def forget_peak():
    """Let `resident_peak` begin anew with what is resident now, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_peak():
    """Return the most memory that was resident so far, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # not ru_maxrss: it begins with the peak of the process that started this one
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024


def outcome(target: Target, path: Path, baseline: int) -> tuple[str, str]:
    """Read one file, and return what became of it, and its message; the baseline is the program's own memory."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    forget_peak()
    start = time.monotonic()
    try:
        target.judge(path)
        found = RIGHT, ""
    except NotComparedError as error:
        found = UNCOMPARED, str(error)
    except FoundError as error:
        found = "documented: finding", str(error)
    except UserError as error:
        found = f"documented: {_public_name(error)}", str(error)
        if any(isinstance(cause, MemoryError) for cause in _causes(error)):
            found = "too big", str(error)
        elif not str(error).strip():
            found = "undocumented: a UserError without a word", ""
    except WrongAnswerError as error:
        found = "wrong answer", str(error)
    except TooSlow:
        found = "too slow", "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
    except Exception as error:
        found = f"undocumented: {type(error).__name__}", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.monotonic() - start > SECONDS:
        found = "too slow", found[1]
    if resident_peak() > baseline + BYTES:
        found = "too big", f"{(resident_peak() - baseline) / 1e6:.0f} MB; {found}"
    return found


def _public_name(error):
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "fbunet_jax.errors")


def _causes(error):
    while error is not None:
        yield error
        error = error.__cause__


def run(target: Target, *, seed: int, count: int, out: Path) -> dict:
    """Read ``count`` mutated files and return how many had which outcome, and how many were distinct."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    distinct: set[bytes] = set()
    slowest = 0.0
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = target.prepare(Path(folder))
        forget_peak()
        baseline = largest = resident_peak()

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            database=None,
            phases=[Phase.generate],
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(strategies.randoms(use_true_random=False))
        def read_one(random):
            nonlocal slowest, largest
            data = target.make(random)
            distinct.add(hashlib.sha256(data).digest())
            path.write_bytes(data)
            (out / "current").write_bytes(data)
            start = time.monotonic()
            kind, message = outcome(target, path, baseline)
            slowest, largest = max(slowest, time.monotonic() - start), max(largest, resident_peak())
            counts[kind] += 1
            if kind == UNCOMPARED:
                reasons[message[:60]] += 1
            if kind.startswith(FAILURES):
                name = f"{target.name}-{hashlib.sha256(data).hexdigest()[:12]}".replace(" ", "-")
                (out / name).write_bytes(data)
                (out / f"{name}.txt").write_text(f"{kind}\nseed {seed}\n{message}\n", encoding="utf-8")

        read_one()
    (out / "current").unlink()
    return {
        "kind": target.name,
        "seed": seed,
        "inputs": sum(counts.values()),
        "distinct": len(distinct),
        "seconds": round(slowest, 2),
        "megabytes": round((largest - baseline) / 1e6),
        "outcomes": dict(counts.most_common()),
        "not compared": dict(reasons.most_common(5)),
    }


def replay(target: Target, file: Path) -> dict:
    """Read one file again."""
    with tempfile.TemporaryDirectory() as folder:
        path = target.prepare(Path(folder))
        path.write_bytes(file.read_bytes())
        forget_peak()
        before, start = resident_peak(), time.monotonic()
        kind, message = outcome(target, path, before)
        seconds, grown = time.monotonic() - start, (resident_peak() - before) / 1e6
    return {"file": file.name, "outcome": kind, "message": message, "seconds": seconds, "megabytes": grown}


def main():
    """Run what the command line says and print one line of JSON for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz-failures"))
    parser.add_argument("--replay", type=Path, nargs="+")
    options = parser.parse_args()
    for name in options.kinds:
        target = TARGETS[name]
        if options.replay:
            for file in options.replay:
                print(json.dumps(replay(target, file)), flush=True)
        else:
            print(json.dumps(run(target, seed=options.seed, count=options.count, out=options.out)), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
