"""A quarter of an hour rehearsed at a small size, from packing to harvest, where the program's packages are missing.

FBUNET_GPU_PYTHON names the Python of an environment with what benchmarks/quarter_hour/machine.txt lists, nothing else:

    python3.12 -m venv ENV; ENV/bin/pip install -r benchmarks/quarter_hour/machine.txt
"""

import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks.quarter_hour.sizes import SIZES
from tests.benchmarks.sections import write_sections

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif("FBUNET_GPU_PYTHON" not in os.environ, reason="FBUNET_GPU_PYTHON names no environment"),
]


class Rehearsal:
    """The two machines, each a folder: home has the project, away has what is carried."""

    def __init__(self, folder):
        self.folder, self.home, self.docs = folder, folder / "home", folder / "docs"
        self.data = write_sections(folder / "data")
        self.docs.mkdir()
        shutil.copyfile(ROOT / "docs" / "performance.md", self.docs / "performance.md")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "PYTHON"))}
        self.environment = {**kept, "PYTHON": os.environ["FBUNET_GPU_PYTHON"]}

    def at_home(self, *options):
        command = [sys.executable, "-m", "benchmarks.quarter_hour", *map(str, options), "--size", "small"]
        command += ["--docs", str(self.docs), "--work", str(self.home)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def pack(self, name):
        text = self.at_home("--pack", self.folder / name, "--data", self.data)
        size = sum(path.stat().st_size for path in (self.folder / name).rglob("*") if path.is_file())
        assert size < 60e6
        return text

    def away(self, packed, name, minutes, *options):
        """Start what was packed, in a folder of its own, as it would be typed there."""
        folder = self.folder / name
        folder.mkdir()
        return subprocess.Popen(
            ["sh", f"../{packed}/run.sh", "--minutes", str(minutes), "--out", "out", "--size", "small", *options],
            cwd=folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def results(self, name):
        files = [path for path in (self.folder / name / "out").rglob("*") if path.is_file()]
        assert len(files) <= 8
        assert all(path.stat().st_size < 15e6 for path in files)
        return json.loads((self.folder / name / "out" / "quarter_hour.json").read_text())


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    return Rehearsal(tmp_path_factory.mktemp("rehearsal"))


def last_epoch(metrics):
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return max((json.loads(line)["epoch"] for line in lines if line.endswith("}")), default=0)


def test_from_packing_to_harvest_over_an_interruption(rehearsal):
    """One training is cut off, carried home and away again, and ends as one that was never interrupted."""
    rehearsal.pack("packed")
    process = rehearsal.away("packed", "first", 15)
    metrics = (
        rehearsal.folder / "first" / "quarter-hour-small" / "table" / "runs" / "unet-seed0" / "fold_0" / "metrics.jsonl"
    )
    while last_epoch(metrics) < 13 and process.poll() is None:  # one validation after the first is behind it
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    text = process.communicate()[0]
    assert process.returncode == 0, text
    results = rehearsal.results("first")
    assert {name: step["status"] for name, step in results["steps"].items()} == dict.fromkeys(
        ("golden", "speed", "profile", "together", "table", "packing"), "done"
    ), text
    steps = {name: step.get("result") for name, step in results["steps"].items()}
    assert steps["golden"]["passes"]
    rows = [(row["batch"], row["task"], row["contender"]) for row in steps["speed"] if row["contender"] == "ours"]
    assert rows == [(2, "train", "ours"), (2, "forward", "ours"), (4, "train", "ours"), (4, "forward", "ours")]
    assert len(steps["profile"]["kernels"]) == 15
    assert steps["profile"]["counted"]["bytes_moved"] > 0
    assert set(steps["together"]["images_per_second"]) == {"1", "2", "4"}
    assert results["unfinished"]["place"] == "unet:0:0", text

    harvested = rehearsal.at_home("--harvest", rehearsal.folder / "first" / "out")
    assert "unet:0:0 is not finished: step " in harvested
    page = (rehearsal.docs / "performance.md").read_text()
    assert page.count("### cpu\n") == 1
    assert "**Profile**" in page

    assert "unet:0:0, which is not finished, resumes at step" in rehearsal.pack("packed-again")
    with tarfile.open(fileobj=lzma.open(rehearsal.folder / "packed-again" / "table.tar.xz")) as tar:
        carried = {Path(name).parts[-1] for name in tar.getnames()}
    assert "metrics.jsonl" in carried
    process = rehearsal.away("packed-again", "second", 1.5, "--steps", "table")
    text = process.communicate()[0]
    assert process.returncode == 0, text
    assert "unet:0:0 resumes at step" in text
    assert "unet:0:0 is finished" in text
    harvested = rehearsal.at_home("--harvest", rehearsal.folder / "second" / "out")
    cells = rehearsal.docs / "results" / "paper-setting" / "cells"
    journey = json.loads((cells / "unet-fold0-seed0.json").read_text())
    assert "unet" in (cells.parent / "table.md").read_text()

    # the same cell without an interruption, by the same interpreter and packages
    straight = rehearsal.folder / "straight"
    environment = {**rehearsal.environment, "JAX_COMPILATION_CACHE_DIR": str(rehearsal.folder / "second" / "compiled")}
    packed = rehearsal.folder / "packed-again"
    environment["PYTHONPATH"] = f"{packed / 'site'}:{packed / 'code'}"
    command = [environment["PYTHON"], "-P", "-m", "fbunet_jax.cli", "reproduce", "--table", "1", "--only", "unet:0"]
    command += ["--data.root", str(rehearsal.data), "--out", str(straight), *SIZES["small"].table_options]
    subprocess.run(command, env=environment, check=True)
    expected = json.loads((straight / "cells" / "unet-fold0-seed0.json").read_text())
    assert journey["evaluation"] == expected["evaluation"]
    assert journey["validation_mean_iou"] == expected["validation_mean_iou"]


# put before what stands there; `together` also uses the module of `speed`
BROKEN = {
    "golden": ("benchmarks/quarter_hour/golden.py", "raise SystemExit(3)"),
    "profile": ("benchmarks/quarter_hour/profile.py", "import os; os.kill(os.getpid(), 9)"),
    "speed": ("benchmarks/speed.py", "import time; __name__ == '__main__' and time.sleep(1000)"),
    "together": ("benchmarks/quarter_hour/together.py", "raise RuntimeError('no memory')"),
    "table": ("fbunet_jax/cli/reproduce.py", "raise RuntimeError('no data')"),
}


@pytest.mark.parametrize("broken", [("golden", "profile"), ("speed",), ("together",), ("table",)], ids="-".join)
def test_a_broken_step_does_not_take_the_others_with_it(rehearsal, broken):
    name = "-".join(broken)
    rehearsal.pack(f"packed-{name}")
    for step in broken:
        path, text = BROKEN[step]
        file = rehearsal.folder / f"packed-{name}" / "code" / path
        file.write_text(f"{text}\n{file.read_text()}")
    process = rehearsal.away(f"packed-{name}", name, 4 if name != "speed" else 7)  # a step that hangs takes its time
    text = process.communicate()[0]
    assert process.returncode == (name != "speed"), "a step that hangs is cut, the others have failed"
    results = rehearsal.results(name)
    statuses = {step: results["steps"][step]["status"] for step in BROKEN}
    assert {step for step, status in statuses.items() if status != "done"} == set(broken), text
    assert bool(results["steps"]["table"]["finished"]) == (name != "table"), text
    if name == "table":
        assert 3 <= text.count("ended with exit code") < 3 + 4, "what fails again and again is given up"
