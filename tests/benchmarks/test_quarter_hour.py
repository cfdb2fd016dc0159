"""The parts of a quarter of an hour: what is started when, what is brought back, what becomes of it."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import jax
import pytest

from benchmarks.quarter_hour import golden, parts, profile, run
from benchmarks.quarter_hour.run import QuarterHour
from benchmarks.quarter_hour.sizes import SIZES
from benchmarks.quarter_hour.steps import Step
from fbunet_jax.accelerators.hlo import Program
from fbunet_jax.config import load_config
from fbunet_jax.errors import ConfigError, DataError
from fbunet_jax.experiments.cells import TableFolder
from fbunet_jax.experiments.grid import Place
from tests.benchmarks.sections import write_sections

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def quarter(tmp_path, monkeypatch):
    """Return a function that runs steps, given as Python text, whose last word is the file of the result."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    lines = []

    def call(texts, minutes=1.0, most=60.0, wanted=None, commit="c0ffee"):
        for name, text in texts.items():
            (tmp_path / f"step_{name}.py").write_text(f"import json, sys, time, os\nfile = sys.argv[-1]\n{text}\n")
        steps = {name: Step(5, most, lambda _, name=name: [f"step_{name}"]) for name in texts}
        monkeypatch.setattr(run, "processes", lambda name, size: steps)
        until = time.monotonic() + 60 * minutes
        paths = (tmp_path / "out", tmp_path / "work", tmp_path)
        QuarterHour("small", SIZES["small"], *paths, commit, until, lines.append).run(wanted or list(texts))
        return json.loads((tmp_path / "out" / "quarter_hour.json").read_text())["steps"], lines

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


WRITES = "json.dump({'device': 'x', 'found': 1}, open(file, 'w'))"


def test_no_step_takes_the_others_with_it(quarter, tmp_path):
    steps, lines = quarter(
        {
            "golden": "raise ValueError('a fault')",
            "speed": f"{WRITES}; os.kill(os.getpid(), 9)",
            "profile": f"{WRITES}; time.sleep(600)",
            "together": WRITES,
        },
        most=8,
    )
    assert steps["golden"]["status"] == "failed"
    assert steps["golden"]["reason"] == "exit code 1: ValueError: a fault"
    assert (steps["speed"]["status"], steps["speed"]["result"]["found"]) == ("failed", 1)
    assert (steps["profile"]["status"], steps["profile"]["reason"]) == ("cut", "the time was over")
    assert steps["profile"]["result"]["found"] == 1
    assert steps["together"]["status"] == "done"
    assert "golden has no whole result" in " ".join(lines)
    assert "a fault" in (tmp_path / "out" / "log.txt").read_text()


def test_a_step_is_skipped_when_time_is_short_and_none_is_repeated(quarter, tmp_path):
    quarter({"golden": WRITES, "speed": "raise SystemExit('once')"})
    steps, lines = quarter({"golden": "raise ValueError", "speed": WRITES}, minutes=0.3)
    assert "golden: measured before, by the same program on this machine." in lines
    assert steps["golden"]["status"] == "done"
    assert steps["speed"]["status"] == "done", "what failed is tried again"
    shutil.rmtree(tmp_path / "out")  # its results are not those of another program
    steps, lines = quarter({"golden": WRITES, "profile": WRITES}, minutes=0.2, commit="another")
    assert steps["golden"] == {"status": "skipped", "reason": steps["profile"]["reason"]}, "nothing of another program"
    assert steps["profile"]["reason"].endswith("s are left, and it takes 5 or more")


def test_results_of_another_run_are_not_mixed_with_these(quarter, tmp_path):
    quarter({"golden": WRITES})
    with pytest.raises(ConfigError, match="has the results of another run"):
        quarter({"golden": WRITES}, commit="another")


def test_a_part_of_a_result_is_kept_until_there_is_a_better_one(quarter):
    quarter({"golden": f"{WRITES.replace('1', '2')}; raise ValueError"})
    steps, _ = quarter({"golden": "raise ValueError('nothing')"})
    assert (steps["golden"]["status"], steps["golden"]["result"]["found"]) == ("failed", 2)
    steps, _ = quarter({"golden": WRITES}, minutes=0.2)
    assert steps["golden"]["result"]["found"] == 2, "a step that is skipped takes nothing away"
    steps, _ = quarter({"golden": WRITES})
    assert (steps["golden"]["status"], steps["golden"]["result"]["found"]) == ("done", 1)


def test_nothing_is_trained_where_the_golden_weights_have_not_passed(quarter):
    writes = "json.dump({'device': 'x', 'passes': False}, open(file, 'w')); sys.exit('differs')"
    steps, lines = quarter({"golden": writes}, wanted=["golden", "table"])
    assert steps["golden"]["reason"] == "exit code 1: differs"
    assert steps["table"]["status"] == "skipped"
    assert "table is skipped: the golden weights have failed" in " ".join(lines)


def test_a_signal_ends_the_step_and_everything_is_packed(quarter, tmp_path):
    result = tmp_path / "work" / "steps" / "golden" / "result.json"

    def interrupt():
        while not result.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    steps, _ = quarter({"golden": f"{WRITES}; time.sleep(600)", "speed": WRITES})
    thread.join()
    assert (steps["golden"]["result"]["found"], steps["golden"]["reason"]) == (1, "a signal has come")
    assert steps["speed"] == {"status": "skipped", "reason": "a signal has come"}
    assert steps["packing"]["status"] == "done"


def test_results_are_brought_back_while_a_step_runs(quarter, tmp_path):
    """The file in the output folder has the first part before the second one is written."""
    waits = f"{WRITES}; out = {str(tmp_path / 'out' / 'quarter_hour.json')!r}\n"
    waits += "while not (os.path.exists(out) and 'found' in open(out).read()): time.sleep(0.05)\n"
    waits += "json.dump({'device': 'x', 'found': 2}, open(file, 'w'))"
    steps, _ = quarter({"golden": waits})
    assert (steps["golden"]["status"], steps["golden"]["result"]["found"]) == ("done", 2)


def test_parts_are_joined_and_a_missing_or_changed_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 100)
    data = parts.archive({"a/b.txt": b"text", "c": bytes(range(256))})
    about = parts.split(data, tmp_path, "big")
    assert about["parts"] == -(-len(data) // 100) == len(list(tmp_path.iterdir()))
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    joined = parts.join(tmp_path, "big", json.loads(json.dumps(about)))
    with tarfile.open(fileobj=io.BytesIO(joined)) as tar:
        assert tar.extractfile("a/b.txt").read() == b"text"
    (tmp_path / "big.3").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="are not those that were written"):
        parts.join(tmp_path, "big", about)
    (tmp_path / "big.3").unlink()
    with pytest.raises(DataError, match=r"big\.3 is missing"):
        parts.join(tmp_path, "big", about)


GPU_PROFILE = """
planes {
  name: "/device:GPU:0"
  event_metadata { key: 1 value { id: 1 name: "loop_fusion_3" } }
  event_metadata { key: 2 value { id: 2 name: "cutlass_kernel" } }
  stat_metadata { key: 7 value { id: 7 name: "hlo_op" } }
  lines {
    name: "Stream #13(Compute)"
    events { metadata_id: 1 duration_ps: 3000000 }
    events { metadata_id: 2 duration_ps: 5000000 stats { metadata_id: 7 str_value: "custom-call.9" } }
    events { metadata_id: 1 offset_ps: 9 duration_ps: 4000000 }
  }
  lines { name: "XLA Ops" events { metadata_id: 2 duration_ps: 99000000 } }
}
planes {
  name: "/host:CPU"
  event_metadata { key: 1 value { id: 1 name: "a thread" } }
  lines { name: "python" events { metadata_id: 1 duration_ps: 77000000 } }
}
"""


def test_the_kernels_of_a_gpu_are_those_of_its_streams_with_the_names_of_the_program():
    found = profile.kernels(jax.profiler.ProfileData.from_serialized_xspace(
        jax.profiler.ProfileData.text_proto_to_serialized_xspace(GPU_PROFILE)
    ))  # fmt: skip
    assert [(each.name, each.launches) for each in found] == [("loop_fusion_3", 2), ("custom-call.9", 1)]
    assert [each.seconds for each in found] == pytest.approx([7e-6, 5e-6])
    program = Program(
        "HloModule m\n\nENTRY %main (p: f32[10]) -> f32[10] {\n  %p = f32[10]{0} parameter(0)\n"
        "  ROOT %loop_fusion.3 = f32[10]{0} negate(%p)\n}\n"
    )
    rows = profile.as_table(found, steps=2, program=program)
    assert [row["share"] for row in rows] == pytest.approx([7 / 12, 5 / 12])
    assert [row["launches_a_step"] for row in rows] == [1, 0.5]
    assert [row["counted_bytes"] for row in rows] == [80, None]


def test_golden_weights_give_what_is_kept_and_a_wrong_network_does_not(monkeypatch):
    kept = json.loads(golden.FILE.read_text())
    assert set(kept) == set(SIZES)
    found = golden.check(SIZES["small"], kept["small"])
    assert found["passes"]
    assert 0 < max(found["device_beside_cpu"]["mixed"].values()) < 0.05
    assert not golden.check(SIZES["small"], {**kept["small"], "loss": kept["small"]["loss"] * 1.001})["passes"]
    assert not golden.check(SIZES["small"], {**kept["small"], "loss": float("nan")})["passes"]
    # a device that computes otherwise than the CPU
    compute = golden.compute

    def wrong(size, precision, device):
        found = compute(size, precision, device)
        wrong.calls += 1
        return found if wrong.calls == 1 else found._replace(logits=found.logits * 1.1)

    wrong.calls = 0
    monkeypatch.setattr(golden, "compute", wrong)
    assert not golden.check(SIZES["small"], kept["small"])["passes"]


def test_a_users_mistake_is_a_sentence(tmp_path):
    def call(*options):
        command = [sys.executable, "-m", "benchmarks.quarter_hour", *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=DOCS.parent, check=False)
        return done.returncode, done.stderr

    assert call()[0] == 2
    assert "--minutes and --out are missing" in call()[1]
    code, text = call("--minutes", "1", "--out", str(tmp_path / "out"), "--data", str(tmp_path))
    assert (code, text.count("\n")) == (2, 1)
    assert "has no folder stack1" in text
    code, text = call("--harvest", str(tmp_path))
    assert (code, text.count("\n")) == (2, 1)
    assert "quarter_hour.json is missing" in text


def test_the_best_checkpoint_without_moments_has_the_same_weights_and_score(tmp_path):
    """What is carried is what is evaluated; the latest checkpoint, from which training resumes, is carried as it is."""
    from fbunet_jax.runs.checkpoints import FoldCheckpoints
    from fbunet_jax.runs.trained import load_trained_fold
    from fbunet_jax.training.fold import train

    config = load_config(
        "quickstart",
        method="unet",
        model={"widths": [2, 4]},
        data={"synthetic_images": 6, "synthetic_size": 32, "crop": 16, "folds": 3},
        training={"epochs": 4, "batch_size": 8, "validate_every": 1},
    )
    folder, place = TableFolder(tmp_path / "table"), Place("unet", 0, 0)
    run_directory = folder.run(place)
    train(config, 0, out=run_directory.path, stream=io.StringIO())
    before = load_trained_fold(run_directory, 0)
    latest, *best = parts.latest_and_best(folder.run(place).fold(place.fold))
    steps = [
        int(path.name) for path in folder.run(place).fold(place.fold).checkpoints.iterdir() if path.name.isdecimal()
    ]
    assert int(latest.name) == max(steps)
    assert best == [] if before.step == int(latest.name) else int(best[0].name) == before.step
    names = {path.name for path in parts.training_files(folder, place)}
    assert {"config.toml", "folds.json", "dataset.json", "metrics.jsonl", "timing.jsonl", "inputs.json"} <= names
    assert not any("previews" in str(path) for path in parts.training_files(folder, place))

    from fbunet_jax.runs.directory import Run

    copy = Run(tmp_path / "copy")
    parts.write_without_moments(folder, place, copy.fold(0))
    for name in ("config", "dataset", "folds"):
        getattr(copy, name).write_bytes(getattr(run_directory, name).read_bytes())
    copy.fold(0).inputs.write_bytes(folder.run(place).fold(place.fold).inputs.read_bytes())
    after = load_trained_fold(copy, 0)
    assert after.step == before.step
    assert after.fingerprint() == before.fingerprint()
    with (
        FoldCheckpoints(copy.fold(0), read_only=True) as one,
        FoldCheckpoints(folder.run(place).fold(place.fold), read_only=True) as two,
    ):
        assert one.score(after.step) == two.score(after.step)


def test_a_minute_of_the_table_ends_in_time_and_is_harvested(tmp_path):
    """With real trainings, several at once; what is not finished by then is brought back too."""
    data, docs = write_sections(tmp_path / "data"), tmp_path / "docs"
    docs.mkdir()
    shutil.copyfile(DOCS / "performance.md", docs / "performance.md")
    command = [sys.executable, "-m", "benchmarks.quarter_hour", "--size", "small", "--docs", str(docs)]
    command += ["--work", str(tmp_path / "work")]
    away = [
        "--minutes",
        "1.3",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "table",
        "--at-once",
        "2",
    ]
    began = time.monotonic()
    done = subprocess.run([*command, *away], capture_output=True, text=True, cwd=DOCS.parent, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 90
    results = json.loads((tmp_path / "out" / "quarter_hour.json").read_text())
    finished = results["steps"]["table"]["finished"]
    assert finished or results["unfinished"], done.stdout
    assert len(list((tmp_path / "out").iterdir())) <= 8
    home = [*command[:-1], str(tmp_path / "home"), "--harvest", str(tmp_path / "out")]
    text = subprocess.run(home, capture_output=True, text=True, cwd=DOCS.parent, check=True).stdout
    cells = sorted(path.name for path in (docs / "results" / "paper-setting" / "cells").glob("*.json"))
    assert cells == sorted(f"{method}-fold{fold}-seed{seed}.json" for method, fold, seed in map(split, finished))
    assert (f"{results['unfinished'].get('place')} is not finished: step" in text) == bool(results["unfinished"])


def split(place):
    return place.split(":")
