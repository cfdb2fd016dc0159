"""What a run has brought back becomes results, once, and only where it can be trusted."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.quarter_hour import harvest, measurements, parts
from benchmarks.quarter_hour.table import recorded
from fbunet_jax.config import load_config, to_toml
from fbunet_jax.errors import RunError
from fbunet_jax.experiments.cells import TableFolder
from fbunet_jax.experiments.grid import Place

DOCS = Path(__file__).resolve().parents[2] / "docs"

TABLE = """\
| training | moved, GB | measured, crops/s |
|---|---|---|
| H100 | 10.4 | 7 |
| H200 | 10.7 |  |

| other | measured |
|---|---|
| H200 | 1 |
"""


def test_the_measured_column_has_the_rate_in_the_row_of_the_device():
    filled = measurements.fill_column(TABLE, {"NVIDIA H200": 1640.4})
    assert "| H200 | 10.7 | 1,640 |" in filled
    assert "| H100 | 10.4 |  |" in filled, "a number that no measurement has"
    assert "| H200 | 1 |" in filled


def test_the_page_is_what_the_kept_measurements_make_of_it():
    """Nobody has written into the measured part by hand, and no measurement is missing in it."""
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert measurements.rewrite(page, measurements.read_measurements(DOCS / "results" / "accelerators")) == page


@pytest.fixture
def brought(tmp_path):
    """Return a folder as a run leaves it, and a copy of the documentation's page."""
    source, docs = tmp_path / "out", tmp_path / "docs"
    source.mkdir()
    docs.mkdir()
    (docs / "performance.md").write_text((DOCS / "performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    passes = {"device": "NVIDIA B300", "jax": "9", "passes": True, "tolerances": {"float32": 1e-4}}
    passes["device_beside_cpu"] = {"float32": {"logits": 1e-5, "loss": 0.0}}
    kernel = {"name": "a|kernel", "share": 0.5, "seconds_a_step": 1e-3, "launches_a_step": 2.0, "counted_bytes": 10**9}
    times = {"seconds_a_step": [0.02], "copied_bytes_a_second": 4e12, "counted": {"bytes_moved": 4e9, "kernels": 900}}
    found = {"device": "NVIDIA B300", "jax": "9", "batch": 16, **times, "kernels": [kernel]}
    found |= {"profiled_step": 0.021, "kernels_a_step": 950.0, "kernel_seconds_a_step": 0.018}
    steps = {"golden": {"status": "done", "result": passes}, "profile": {"status": "done", "result": found}}
    results = {"format": 1, "size": "full", "commit": "a" * 40, "date": "2027-01-02", "machine": "node", "jax": "9"}
    results |= {"steps": steps, "unfinished": {}}
    (source / "quarter_hour.json").write_text(json.dumps(results))

    def take(**changes):
        (source / "quarter_hour.json").write_text(json.dumps({**results, **changes}))
        lines = []
        harvest.harvest(source, docs, TableFolder(tmp_path / "table"), "full", lines.append)
        return (docs / "performance.md").read_text(encoding="utf-8"), lines

    return take, results


def test_a_harvest_writes_what_was_measured_once(brought, tmp_path):
    take, _ = brought
    page, _ = take()
    assert page.count("### NVIDIA B300") == 1
    assert "**Correct** (2027-01-02, commit aaaaaaa, jax 9). Logits" in page
    assert "float32 by 1e-05 (at most 0.0001)" in page
    assert "moves 4 GB in 900 kernels, which takes 1 ms at that rate, 5 % of the step." in page
    assert "| `a kernel` | 50.0 | 1 | 2 | 1,000 |" in page
    again, _ = take()
    assert again == page
    later, _ = take(commit="b" * 40)
    assert "commit bbbbbbb" in later
    assert "commit aaaaaaa" not in later, "of one day the later one counts"
    kept = sorted(path.name for path in (tmp_path / "docs" / "results" / "accelerators").iterdir())
    assert kept == ["nvidia-b300-2027-01-02-2.json", "nvidia-b300-2027-01-02.json"]


def test_what_cannot_be_trusted_or_is_a_rehearsal_is_not_harvested(brought, tmp_path):
    take, results = brought
    with pytest.raises(RunError, match="is a run of the size small, and --size is full"):
        take(size="small")
    failed = {**results["steps"]["golden"]["result"], "passes": False}
    with pytest.raises(RunError, match="have not passed on NVIDIA B300"):
        take(steps={**results["steps"], "golden": {"status": "failed", "result": failed}})
    for status in ("skipped", "cut", "done"):
        with pytest.raises(RunError, match="have not passed on NVIDIA B300"):
            take(steps={**results["steps"], "golden": {"status": status, "result": failed}})
    other = {"status": "done", "result": {**results["steps"]["profile"]["result"], "device": "cpu"}}
    with pytest.raises(RunError, match="must name one device, and have NVIDIA B300, cpu"):
        take(steps={**results["steps"], "profile": other})
    broken = {"status": "done", "result": {"device": "NVIDIA B300", "jax": "9"}}
    with pytest.raises(RunError, match="cannot be read: KeyError"):
        take(steps={**results["steps"], "profile": broken})
    with pytest.raises(RunError, match="has format 7"):
        take(format=7)
    assert not (tmp_path / "docs" / "results").exists()


def test_a_training_that_is_brought_home_leaves_the_other_folds_of_its_method_alone(tmp_path):
    def write(folder, fold, step, epochs=3):
        run_directory = folder.run(Place("unet", fold, 0))
        directory = run_directory.fold(fold)
        directory.path.mkdir(parents=True)
        run_directory.config.write_text(to_toml(load_config("quickstart", training={"epochs": epochs})))
        run_directory.folds.write_text("the same\n")
        data = {"format": 1, "class_names": ["a", "b"], "channels": 1, "fingerprint": "f"}
        run_directory.dataset.write_text(json.dumps(data))
        directory.metrics.write_text(json.dumps({"kind": "train", "step": step, "epoch": 1, "loss": 0.5}) + "\n")

    home, away, source = TableFolder(tmp_path / "home"), TableFolder(tmp_path / "away"), tmp_path / "out"
    source.mkdir()
    write(home, 0, 30)
    for step, expected in ((7, 7), (5, 7), (9, 9)):
        write(away, 1, step)
        files = [path for path in away.path.rglob("*") if path.is_file()]
        about = parts.split(parts.archive(parts.named(files, away.path)), source, "unfinished.tar")
        lines = []
        harvest._harvest_training(source, home, {"place": "unet:1:0", **about}, lines.append)
        assert recorded(home, Place("unet", 1, 0))[0] == expected, "what is further is kept"
        assert recorded(home, Place("unet", 0, 0))[0] == 30
        shutil.rmtree(away.path)
    assert "is set aside, as" in lines[0]
    assert len(list(home.run(Place("unet", 1, 0)).path.glob("fold_1*"))) == 2
    write(away, 1, 50, epochs=2)
    files = [path for path in away.path.rglob("*") if path.is_file()]
    about = parts.split(parts.archive(parts.named(files, away.path)), source, "unfinished.tar")
    with pytest.raises(RunError, match=r"training\.epochs was 3 and is now 2"):
        harvest._harvest_training(source, home, {"place": "unet:1:0", **about}, lines.append)
    assert recorded(home, Place("unet", 1, 0))[0] == 9
