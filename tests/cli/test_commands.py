"""The commands as a user types them: in a process of their own, from any folder."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

ROOT = Path(__file__).parents[2]
SMALL = ["--data.synthetic_images", "6", "--data.synthetic_size", "32", "--data.crop", "32", "--data.folds", "3"]
SMALL += ["--model.widths", "2", "3", "--training.epochs", "2", "--training.batch_size", "2"]


def run(script, *options, cwd, check=0):
    """Run a script with warnings as errors and return what it printed; a traceback is a failure always."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, "-W", "error", str(ROOT / script), *map(str, options)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
    assert "Traceback" not in done.stderr
    assert "Internal error" not in done.stderr
    assert done.returncode == check, done.stderr + done.stdout
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    return folder, run("train.py", "--fold", 0, *SMALL, cwd=folder)


def test_training_ends_with_where_things_are_and_what_to_type_next(trained):
    folder, text = trained
    fold = Path("runs/quickstart/feedback-convlstm/fold_0")
    for path in (fold / "checkpoints", fold / "curves.png", fold / "previews"):
        assert (folder / path).exists()
        assert str(path) in text
    interpreter, script, *options = shlex.split(text[text.index("Next: ") :].splitlines()[0])[1:]
    assert interpreter in (sys.executable, "python")
    output = run(script, *options, cwd=folder)
    assert "Missing: fold 1, 2 of 3" in output
    assert "synapse" in output
    evaluation = json.loads((folder / fold.parent / "evaluation.json").read_text())
    assert evaluation["folds"][0]["fold"] == 0


def test_the_same_command_again_does_nothing_and_says_so(trained):
    folder, _ = trained
    assert "was finished already" in run("train.py", "--fold", 0, *SMALL, cwd=folder)


@pytest.mark.parametrize("interrupt", [signal.SIG_DFL, signal.SIG_IGN])
def test_sigterm_releases_the_fold_and_says_how_to_go_on(interrupt, tmp_path):
    """Also in a background job of a shell without job control, which starts with SIGINT ignored."""
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, "--training.epochs", "100000", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    before = signal.signal(signal.SIGINT, interrupt)  # which the process inherits
    try:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                assert (tmp_path / "run/fold_0/lock").exists()
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert re.search(r"Interrupted: step \d+ of 150000 is saved\. The same command resumes from there\.$", rest.strip())
    assert "Traceback" not in rest
    assert not (tmp_path / "run/fold_0/lock").exists()


def test_a_seed_has_a_run_of_its_own(trained):
    folder, _ = trained
    run("train.py", "--seed", 3, *SMALL, cwd=folder)
    assert (folder / "runs/quickstart/feedback-convlstm-seed3/fold_0/metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "u-net"], "Did you mean"),
        (["--training.epohcs", "3"], "--training.epochs"),
        (["--training.epochs", "0"], "at least 1"),
        (["--fold", "5"], "from 0 to 4"),
        (["--fold", "-1"], "fold"),
        (["--config", "drosofila"], "Did you mean 'drosophila'"),
        (["--config", "drosophila"], "data.root"),
        (["--config", "drosophila", "--data.root", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_gets_a_sentence_and_exit_code_2(options, message, tmp_path):
    assert message in run("train.py", *options, cwd=tmp_path, check=2)
    assert not (tmp_path / "runs").exists()


def test_evaluating_a_folder_that_is_no_run_gets_a_sentence(tmp_path):
    assert "is not a run directory" in run("evaluate.py", tmp_path, cwd=tmp_path, check=2)


def write_folder(root, sizes):
    """Write a folder data set whose two classes are dark and bright, as 16-bit TIFF and 8-bit PNG."""
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for number, size in enumerate(sizes):
        label = np.kron(random.integers(0, 2, (size[0] // 8 + 1, size[1] // 8 + 1)), np.ones((8, 8)))
        label = label[: size[0], : size[1]].astype(np.uint8)
        image = 5000 + 20000.0 * label + random.normal(0, 3000, size)
        tifffile.imwrite(root / "images" / f"{number:02}.tif", image.clip(0, 65535).astype(np.uint16))
        Image.fromarray(label * 9).save(root / "labels" / f"{number:02}.png")
    (root / "dataset.toml").write_text("classes = { dark = 0, bright = 9 }\n")


@pytest.mark.parametrize(
    "sizes", [[(520, 696)] * 3, [(100, 70), (31, 200), (64, 64), (20, 20)]], ids=["520x696", "mixed"]
)
def test_images_of_any_and_mixed_sizes_train_and_evaluate(sizes, tmp_path):
    write_folder(tmp_path / "data", sizes)
    options = ["--data.layout", "folder", "--data.root", "data", "--data.folds", "3", "--data.crop", "64"]
    options += ["--model.widths", "2", "4", "--training.epochs", "2", "--training.learning_rate", "1e-2"]
    run("train.py", *options, "--method", "unet", "--out", "run", cwd=tmp_path)
    run("evaluate.py", "run", cwd=tmp_path)
    fold = json.loads((tmp_path / "run/fold_0/evaluation.json").read_text())
    folds = json.loads((tmp_path / "run/folds.json").read_text())["folds"]
    tested = [int(name) for name in folds[0]["test"]]
    # every pixel of the test images counts once, and none of the mirrored border
    assert np.sum(fold["rounds"][0]["confusion"]) == sum(np.prod(sizes[number]) for number in tested)


def test_quickstart_learns_what_it_promises_and_one_epoch_does_not(tmp_path):
    run("train.py", "--training.epochs", 1, "--out", "one-epoch", cwd=tmp_path)
    run("train.py", "--fold", 0, cwd=tmp_path)

    def best(run_directory):
        lines = (tmp_path / run_directory / "fold_0/metrics.jsonl").read_text().splitlines()
        records = [record for record in map(json.loads, lines) if record["kind"] == "validation"]
        return max(records, key=lambda record: record["mean_iou"])

    assert best("one-epoch")["mean_iou"] < 0.60
    quickstart = best("runs/quickstart/feedback-convlstm")
    assert quickstart["mean_iou"] > 0.75
    assert quickstart["iou"]["synapse"] > 0.4
    for picture in (tmp_path / "runs/quickstart/feedback-convlstm/fold_0").rglob("*.png"):
        with Image.open(picture) as image:
            assert np.asarray(image.convert("L")).std() > 10
