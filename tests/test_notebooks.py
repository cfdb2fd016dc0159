"""The notebooks run from the first cell to the last, as they are stored: without outputs, and without a warning."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def quiet_kernel(monkeypatch):
    """Give the kernel this checkout, and make Jupyter use the folders that it warns to be coming."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["own_data", "quickstart"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, quiet_kernel):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    told = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    assert not told
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    if path.stem == "quickstart":
        assert len(pictures) == 5
        assert "round 1 round 2" in text
        assert (tmp_path / "runs/notebook/fold_0/metrics.jsonl").exists()
    else:
        assert len(pictures) == 1
        assert "9 images, 0 faults" in text
        assert "mean disagreement" in text
        assert (tmp_path / "new_image_labels.tif").exists()
