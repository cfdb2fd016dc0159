"""The public names: there, light to import, described, and their examples true."""

import ast
import doctest
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fbunet_jax
from fbunet_jax import load_config, train

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    *("FeedbackUNet", "build_method", "METHODS", "Dataset", "load_dataset", "Config", "load_config", "train"),
    *("TrainResult", "evaluate", "load", "Predictor", "Prediction", "UserError", "losses", "metrics"),
}
MEMBERS = {
    "losses": ("Loss", "CrossEntropy", "SoftDice", "class_weights", "targets_of"),
    "metrics": ("confusion_matrix", "iou", "mean_iou"),
    "Dataset": ("from_arrays",),
}
DESCRIBED = [(name, getattr(fbunet_jax, name)) for name in sorted(NAMES - {"METHODS"})] + [
    (f"{name}.{member}", getattr(getattr(fbunet_jax, name), member)) for name in MEMBERS for member in MEMBERS[name]
]


def test_the_public_names_are_those_of_the_design_and_are_all_listed():
    assert set(fbunet_jax.__all__) == NAMES
    assert set(dir(fbunet_jax)) >= NAMES


@pytest.fixture(scope="module")
def run_of_the_examples(tmp_path_factory):
    """Return a folder in which runs/quickstart/unet is trained, as the examples take it."""
    folder = tmp_path_factory.mktemp("examples")
    config = load_config(
        "quickstart",
        method="unet",
        data={"synthetic_images": 6, "synthetic_size": 32, "crop": 32},
        model={"widths": [2, 4]},
        training={"epochs": 1, "batch_size": 8, "previews": 0},
    )
    train(config, 0, out=folder / "runs/quickstart/unet", stream=io.StringIO())
    return folder


@pytest.mark.parametrize(("name", "found"), DESCRIBED, ids=[name for name, _ in DESCRIBED])
def test_the_docstring_of_a_public_name_has_an_example_that_is_true(name, found, run_of_the_examples, monkeypatch):
    monkeypatch.chdir(run_of_the_examples)
    text = inspect.getdoc(found)
    # what stands in the class itself is the example of its methods too
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples, f"{name} has no example"
    report = io.StringIO()
    results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=report.write)
    assert not results.failed, report.getvalue()


@pytest.mark.parametrize(("name", "found"), [each for each in DESCRIBED if inspect.isfunction(each[1])])
def test_the_docstring_of_a_public_function_names_every_argument(name, found):
    text = inspect.getdoc(found)
    missing = [argument for argument in inspect.signature(found).parameters if f"{argument}: " not in text]
    assert not missing, f"{name} does not describe {missing}"


def test_importing_the_package_imports_neither_jax_nor_numpy():
    program = (
        "import sys, fbunet_jax; print([m for m in ('jax', 'numpy', 'flax', 'tyro', 'orbax') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output == "[]\n"


def test_the_table_of_methods_and_the_help_of_a_command_import_neither_jax_nor_flax():
    program = (
        "import sys\nfrom fbunet_jax import METHODS\nfrom fbunet_jax.cli import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('jax', 'flax', 'orbax', 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stderr == "[]\n"
    shown = "".join(found.stdout.split())
    assert all(name in shown for name in fbunet_jax.METHODS)


@pytest.mark.parametrize(("former", "present"), [("train_fold", "train"), ("FoldResult", "TrainResult")])
def test_former_names_work_and_warn(former, present):
    with pytest.warns(DeprecationWarning, match=f"fbunet_jax.{former} is now fbunet_jax.{present}"):
        assert getattr(fbunet_jax, former) is getattr(fbunet_jax, present)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        _ = fbunet_jax.trainer


def test_the_network_stands_by_itself():
    """models/ knows of no settings, no files, and no command line."""
    for path in (ROOT / "fbunet_jax" / "models").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        rooms = {module for module in modules if module and module.startswith("fbunet_jax")}
        assert all(room == "fbunet_jax.errors" or room.startswith("fbunet_jax.models") for room in rooms), path
        texts = [str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        assert not [each for each in texts if re.search("--(?!help)[a-z]", each)], path
