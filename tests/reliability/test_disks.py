"""A full disk, a folder that cannot be written, and folders that vanish: a sentence, and nothing is lost."""

import contextlib
import os
import re
import shutil
import signal
import subprocess

import pytest

from fbunet_jax.runs.checkpoints import FoldCheckpoints
from tests.reliability.conftest import TrainingCommand

EPOCHS = ("--training.epochs", "4", "--training.preview-every", "1", "--method", "unet")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    command = TrainingCommand(tmp_path_factory.mktemp("undisturbed") / "run", *EPOCHS)
    assert command.run()[0] == 0
    return command


@contextlib.contextmanager
def mounted(folder, *options):
    """Mount a file system on a folder, which takes the right to."""
    folder.mkdir(exist_ok=True)
    mount = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if mount.returncode:
        pytest.skip(f"nothing can be mounted here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def sentence(errors):
    """Return the one error, which is the last line, and check that nobody else complains."""
    assert "Traceback" not in errors
    assert "Exception" not in errors
    assert "RuntimeWarning" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("Error: ")
    return last


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_space(undisturbed, tmp_path):
    disk = tmp_path / "disk"
    stopped = set()
    with mounted(disk, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        command = TrainingCommand(disk / "run", *EPOCHS, "--training.save-minutes", "0")
        # room for the first steps, and then for less and less
        for room in (400, 300, 200, 100, 40, 12):
            with (disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
                space = os.statvfs(disk)
                filler.write(bytes(max(0, space.f_bavail * space.f_bsize - room * 1024)))
            code, _, errors = command.run()
            assert code == 2, (room, errors)
            assert str(command.out) in sentence(errors)
            assert re.search(r": No space left on device\. ", sentence(errors)), errors
            stopped.add(command.fold.unfinished.exists())
            (disk / "filler").unlink()
            if command.fold.unfinished.is_dir() or command.fold.checkpoints.is_dir():
                with FoldCheckpoints(command.fold) as checkpoints:
                    assert not checkpoints.warnings
        code, _, errors = command.run()
        assert code == 0, errors
        assert stopped == {True, False} or stopped == {True}
        assert command.contents() == undisturbed.contents()


def test_a_read_only_folder_is_refused_and_left_as_it_is(undisturbed, tmp_path):
    shutil.copytree(undisturbed.out, tmp_path / "source")
    shutil.rmtree(tmp_path / "source" / "fold_0" / "checkpoints" / "12")
    before = sorted(tmp_path.joinpath("source").rglob("*"))
    with mounted(tmp_path / "run", "-o", "bind,ro", str(tmp_path / "source")):
        code, _, errors = TrainingCommand(tmp_path / "run", *EPOCHS).run()
    assert code == 2
    assert "Read-only file system" in sentence(errors)
    assert sorted(tmp_path.joinpath("source").rglob("*")) == before


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv, which takes root's rights away, is not installed")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    command.out.mkdir(mode=0o500)
    # root ignores the bits of a folder as long as it has its capabilities
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    code, _, errors = command.run(wrapper=powerless)
    assert code == 2, errors
    assert "Permission denied" in sentence(errors)
    assert list(command.out.iterdir()) == []


def test_images_that_vanish_do_not_stop_a_run_and_are_named_when_it_starts_again(tmp_path, data_root):
    images = tmp_path / "images"
    shutil.copytree(data_root / "nuclei-256", images)
    options = (
        "--data.layout",
        "folder",
        "--data.root",
        str(images),
        "--method",
        "unet",
        "--training.epochs",
        "2",
        "--data.crop",
        "256",
    )
    command = TrainingCommand(tmp_path / "run", *options, "--training.batch-size", "8", "--data.folds", "5")
    process = command.start("step", 1, [signal.SIGSTOP])
    os.waitpid(process.pid, os.WUNTRACED)
    shutil.move(images, tmp_path / "elsewhere")
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    code, _, errors = command.run()
    assert code == 2
    assert str(images) in sentence(errors)


def test_a_run_folder_that_vanishes_is_named(tmp_path):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    process = command.start("step", 4, [signal.SIGSTOP])
    os.waitpid(process.pid, os.WUNTRACED)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    assert f"{tmp_path / 'run'}" in sentence(errors)
    assert "took it over" not in errors


@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&-"])
def test_a_log_that_cannot_be_written_stops_no_training(undisturbed, tmp_path, stream):
    command = TrainingCommand(tmp_path / "run", *EPOCHS)
    code, output, _ = command.run(wrapper=["sh", "-c", f'exec "$@" {stream}', "sh"])
    assert code == 0
    assert "is finished" in output
    assert command.contents() == undisturbed.contents()
