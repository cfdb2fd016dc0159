"""Mutated files of every kind give a documented error or a right answer, within 5 seconds and 1 GB.

The short form reads some thousands of files; ``pytest -m long tests/fuzz`` reads 20,000 and more, and lets atheris
look for inputs of the image readers by what they cover. A failing input lies in build/fuzz-failures/, with its seed;
``python -m tests.fuzz.worker KIND --replay FILE`` reads it again.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fbunet_jax.data.faults import Fault
from tests.fuzz import images
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import FAILURES, RIGHT, UNCOMPARED

ROOT = Path(__file__).resolve().parents[2]
FOUND = ROOT / "build/fuzz-failures"
ENVIRONMENT = {**os.environ, "JAX_PLATFORMS": "cpu"}


def read(kinds, seed, count, out):
    """Read mutated files of these kinds in one process, and return a row of results for each."""
    command = [sys.executable, "-m", "tests.fuzz.worker", *kinds, "--seed", str(seed), "--count", str(count)]
    command += ["--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        print(json.dumps(row))
    assert done.returncode == 0, f"{(out / 'current')}: {done.stderr[-3000:]}"
    return rows


def keep(out):
    """Copy failing inputs to where they are found after the test."""
    if any(out.iterdir()):
        shutil.copytree(out, FOUND, dirs_exist_ok=True)


def check(rows):
    for row in rows:
        failed = {kind: count for kind, count in row["outcomes"].items() if kind.startswith(FAILURES)}
        assert not failed, f"{row['kind']}: {failed}; the inputs are in {FOUND}"
        # a fuzzer that only makes rubbish, or none, would find nothing
        assert row["outcomes"].get(RIGHT, 0) >= 0.02 * row["inputs"], row
        assert row["distinct"] > 0.6 * row["inputs"], row
        assert row["outcomes"].get(UNCOMPARED, 0) < 0.05 * row["inputs"], row


IMAGE_KINDS = [kind for kind in TARGETS if kind.startswith(("tiff", "png", "jpeg"))]
# one checkpoint takes as long as fifty other files
TABLES = [kind for kind in TARGETS if kind not in IMAGE_KINDS and kind != "checkpoint"]
COUNTS = dict.fromkeys(IMAGE_KINDS, 4000) | dict.fromkeys(TABLES, 1500) | {"checkpoint": 1000}


@pytest.mark.parametrize(("kinds", "count"), [(IMAGE_KINDS, 400), (TABLES, 200)], ids=["images", "tables"])
def test_a_mutated_file_gives_a_documented_error_or_a_right_answer(kinds, count, tmp_path):
    rows = read(kinds, 0, count, tmp_path)
    keep(tmp_path)
    assert [row["kind"] for row in rows] == kinds
    assert {row["inputs"] for row in rows} == {count}
    check(rows)


SEEDS = {"a.tif": images.tiff_seeds, "a.png": images.png_seeds, "a.jpg": images.jpeg_seeds}
REFUSED = {"image-type", "palette", "colour-mode", "transparency", "axes-unknown", "fax", "inverted"}


@pytest.mark.parametrize("name", SEEDS)
def test_the_files_that_are_mutated_are_read_right_or_refused_for_what_they_are(name, tmp_path):
    target = {"a.tif": TARGETS["tiff"], "a.png": TARGETS["png"], "a.jpg": TARGETS["jpeg"]}[name]
    for number, data in enumerate(SEEDS[name]()):
        (tmp_path / name).write_bytes(data)
        try:
            target.judge(tmp_path / name)
        except Fault as fault:
            if fault.kind not in REFUSED:
                pytest.fail(f"{number}: {fault}")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "count"), COUNTS.items())
def test_many_mutated_files_give_a_documented_error_or_a_right_answer(kind, count, tmp_path):
    rows = read([kind], 1, count, tmp_path)
    keep(tmp_path)
    check(rows)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["tiff", "png label", "jpeg"])
def test_atheris_finds_no_input_of_the_readers_that_fails(kind, tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed: pip install atheris, on Python 3.11 to 3.13")
    command = [sys.executable, "-m", "tests.fuzz.coverage_guided", kind, str(tmp_path / "corpus"), "-runs=20000"]
    command += ["-seed=1", "-rss_limit_mb=2000", "-timeout=5", f"-artifact_prefix={tmp_path}/failed-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    print(done.stderr[-600:])
    for file in tmp_path.glob("failed-*"):
        FOUND.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, FOUND / f"{kind}-{file.name}".replace(" ", "-"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr or "Done 20000" in done.stderr
