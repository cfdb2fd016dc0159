"""The notebooks run from the first cell to the last, as they are stored: without outputs, and without a warning."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import fbunet_jax

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def quiet_kernel(monkeypatch):
    """Give the kernel this checkout, and make Jupyter use the folders that it warns to be coming."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["own_data", "quickstart", "research"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def python_of(path: Path) -> str:
    """Return the Python code of a program or a notebook; a line for IPython becomes `pass`."""
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.sub(r"^(\s*)[!%].*$", r"\1pass", code, flags=re.MULTILINE)


def internal_imports(code: str) -> list[str]:
    """Return what is imported from the package and is not a public name of it."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "fbunet_jax"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fbunet_jax":
            public = fbunet_jax.__all__ if node.module == "fbunet_jax" else ()
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in public]
    return found


def test_internal_imports_are_found():
    code = "from fbunet_jax import train, figures\nimport fbunet_jax.runs\nfrom fbunet_jax.runs import Run\n"
    assert internal_imports(code) == [
        "fbunet_jax.figures",
        "fbunet_jax.runs",
        "fbunet_jax.runs.Run",
    ]


@pytest.mark.parametrize("path", [*NOTEBOOKS, *EXAMPLES], ids=lambda path: path.stem)
def test_notebooks_and_examples_import_public_names_alone(path):
    code = python_of(path)
    assert "from fbunet_jax import" in code
    assert not internal_imports(code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, quiet_kernel, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    if path.stem == "research":
        shorten(notebook)
        # Flax's pooling mixes floats and whole numbers
        monkeypatch.delenv("JAX_NUMPY_DTYPE_PROMOTION", raising=False)
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
    elif path.stem == "own_data":
        assert len(pictures) == 1
        assert re.search(r"Images +12 of 96 x 96 pixels", text)
        assert "No faults." in text
        assert "mean disagreement" in text
        assert (tmp_path / "new_image_labels.tif").exists()
    else:
        assert len(pictures) == 3
        tables = text.split("minus feedback-convlstm: percentage points of IoU")[1:]
        assert len(tables) == 2
        # one for each of four classes, and one for the mean
        assert [len(re.findall(r"[+-]\d+\.\d to [+-]\d+\.\d\n", table)) for table in tables] == [5, 5]
        assert "FeedbackUNet-GatedContext minus feedback-convlstm" in text
        assert len(list(tmp_path.glob("runs/research/*/idea/report.html"))) == 1


def shorten(notebook):
    """Train for a fifth of the time: no other line of the notebook depends on it."""
    (cell,) = [cell for cell in notebook.cells if "SECONDS = 5\n" in cell.source]
    cell.source = cell.source.replace("SECONDS = 5\n", "SECONDS = 1\n")
