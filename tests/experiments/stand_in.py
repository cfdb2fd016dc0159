"""A stand-in for the training command that is quick and does what a test wants of each fold.

The environment variable STAND_IN is a JSON table of folds and deeds: "finish"; "meet", which finishes as soon as
another one that meets runs at the same time; "fail"; "save", for which the process that started it is interrupted, and
which then saves; "wait", until the file "go" lies in the folder of the runs; "insist", which only the second
interruption ends; "killed", as a kernel that is out of memory does.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def option(name):
    return sys.argv[sys.argv.index(name) + 1]


def record(kind, epoch, **values):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": kind, "epoch": epoch, "step": 3 * epoch, **values}) + "\n")


signals = []


def saved(number, frame):
    signals.append(number)
    if deed == "insist" and len(signals) == 1:
        os.kill(os.getppid(), signal.SIGTERM)
        return
    print("saved", len(signals), flush=True)
    sys.exit(130)


if "--cell" in sys.argv:  # of a queue: EXPERIMENT/METHOD:FOLD:SEED
    experiment, _, place = option("--cell").partition("/")
    method, fold, seed = place.split(":")
    folder = Path(option("--out")) / experiment / "runs" / f"{method}-seed{seed}" / f"fold_{fold}"
else:
    fold = option("--fold")
    folder = Path(option("--out")) / f"fold_{fold}"
deed = json.loads(os.environ["STAND_IN"])[fold]
folder.mkdir(parents=True, exist_ok=True)
# no two processes may have a device at the same time
device = folder.parent.parent / f"device-{os.environ.get('CUDA_VISIBLE_DEVICES', 'none')}"
device.touch(exist_ok=False)
try:
    (folder / "cores").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
    signal.signal(signal.SIGTERM, saved)
    record("train", 1, loss=0.9)
    record("validation", 1, mean_iou=0.25 + 0.1 * int(fold), iou={})
    if deed == "meet":
        (folder.parent.parent / f"met-{folder.name}").touch()
        signal.alarm(20)
        while len(list(folder.parent.parent.glob("met-*"))) < 2:
            time.sleep(0.01)
    if deed == "wait":
        (folder / "pid").write_text(str(os.getpid()))
        signal.alarm(30)
        while not (folder.parent.parent / "go").exists():
            time.sleep(0.01)
    if deed == "killed":  # by the kernel, which wants memory back
        device.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "fail":
        print("one\ntwo\nthree\n\nfour", file=sys.stderr)
        sys.exit(2)
    if deed in ("save", "insist"):
        os.kill(os.getppid(), signal.SIGTERM)
        while True:
            signal.pause()
    record("train", 2, loss=0.8)
    record("validation", 2, mean_iou=0.2, iou={})
finally:
    device.unlink()
