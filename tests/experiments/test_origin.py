import shutil
import subprocess

import pytest

from fbunet_jax.experiments.origin import commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path):
    """Return a package in a checkout of one commit."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (tmp_path / "notes.md").write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return folder


def test_the_commit_is_that_of_the_checkout_and_changes_of_the_package_make_it_dirty(package):
    head = git(package, "rev-parse", "HEAD")
    assert commit(package) == head
    (package.parent / "notes.md").write_text("changed")
    assert commit(package) == head
    (package / "new.py").write_text("")
    assert commit(package) == f"{head} (dirty)"


def test_a_package_inside_another_projects_checkout_is_told_by_its_version(package, monkeypatch):
    installed = package.parent / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert commit(installed).startswith("version ")
    monkeypatch.setenv("PATH", "")
    assert commit(package).startswith("version ")
