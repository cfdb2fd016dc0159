"""What README, docs, CONTRIBUTING and the headers of the configurations say is true of the program."""

import ast
import contextlib
import dataclasses
import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tyro

from benchmarks.quarter_hour.__main__ import Options as QuarterHourOptions
from fbunet_jax.accelerators import rehearsal
from fbunet_jax.accelerators.estimate import Costs, Work
from fbunet_jax.accelerators.rehearsal import Estimate
from fbunet_jax.cli import COMMANDS, main, train
from fbunet_jax.config import Config, DataConfig, ModelConfig, TrainingConfig, load_config
from fbunet_jax.models.contract import count_parameters
from fbunet_jax.models.methods import METHODS
from fbunet_jax.networks import build_network
from fbunet_jax.runs.directory import FoldDirectory, default_path
from fbunet_jax.toml_tables import to_table
from fbunet_jax.training import fold as training

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(ROOT.glob("docs/*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
TEXTS = [*PAGES, *CONFIGS]
OPTION = re.compile(r"--[a-z][\w.-]*\w")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Return every call of a command in the code blocks of a page or the header of a configuration."""
    if path.suffix == ".toml":
        lines = [line.removeprefix("#") for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    else:
        lines = [line for block in code_blocks(path, "bash") for line in block.splitlines()]
    calls = []
    for part in (part for line in lines for part in line.split("&&")):
        if call := re.match(r"\s*(?:(?:\S*python\S* )?(\w+)\.py|(?:\S*/)?fbunet (\w+))(.*)", part):
            script, subcommand, rest = call.groups()
            rest = re.sub(r"\S*/fbunet\.toml", "quickstart", rest)  # which fbunet init writes for the reader
            options = shlex.split(rest.replace("$SLURM_ARRAY_TASK_ID", "0"), comments=True)
            calls.append([script or subcommand, *options])
    return calls


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_file_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"(?<![\w./-])(?:[\w-]+/)+\w+\.py\b", page.read_text(encoding="utf-8"))
    folders = (ROOT, ROOT / "fbunet_jax")
    assert not [name for name in named if not any((folder / name).is_file() for folder in folders)]


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_every_configuration_that_is_named_exists_and_loads(text: Path) -> None:
    for name in re.findall(r"configs/[\w-]+\.toml", text.read_text(encoding="utf-8")):
        assert load_config(ROOT / name).name == Path(name).stem


@pytest.mark.parametrize("text", TEXTS, ids=name_of)
def test_every_command_is_accepted(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(config: Config, fold: int, *, out: str | None, fresh: bool) -> training.TrainResult:
        run = Path(out) if out else default_path(config)
        return training.TrainResult(fold, run, FoldDirectory(run), 1, 1, 0.5, {}, fresh, 1.0)

    def rehearse(config: Config, folds: list[int], **options: Any) -> Estimate:
        work = Work(steps=1, records=1, validations=1, batches=1, pictures=1)
        return Estimate(dict.fromkeys(folds, work), Costs(1, 1, 1, 1, 1, 1, 1), 5, 10**9, None, 10**6)

    monkeypatch.setattr(training, "train", pretend)
    monkeypatch.setattr(rehearsal, "dry_run", rehearse)
    monkeypatch.setattr(train, "joined", lambda options: contextlib.nullcontext())
    monkeypatch.chdir(ROOT)
    for command, *options in commands(text):
        if command == "train":
            assert main(["train", *options]) == 0
        else:
            assert command in COMMANDS
            tyro.cli(importlib.import_module(f"fbunet_jax.cli.{command}").Arguments, args=options)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_benchmark_command_is_accepted(page: Path) -> None:
    for line in re.findall(r"python -m (benchmarks\.[^`\n#|]+)", page.read_text(encoding="utf-8")):
        module, *options = shlex.split(line)
        name = f"{module}.__main__" if module.endswith("quarter_hour") else module
        with contextlib.suppress(SystemExit) if "--help" in options else contextlib.nullcontext():
            tyro.cli(importlib.import_module(name).Options, args=options)


def test_the_commands_are_found() -> None:
    assert len(commands(ROOT / "README.md")) >= 4
    assert all(len(commands(config)) == 1 for config in CONFIGS)


def test_every_option_that_is_mentioned_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
    known = set(OPTION.findall(capsys.readouterr().out)) | {
        f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(QuarterHourOptions)
    }
    assert "--training.batch-size" in known
    for text in TEXTS:
        for span in re.findall(r"`(--[^`]+)`", text.read_text(encoding="utf-8")):
            for option in OPTION.findall(span):
                assert option.replace("_", "-") in known, f"{name_of(text)}: {option}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_parse_and_import_what_exists(page: Path) -> None:
    for block in code_blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_toml_examples_parse(page: Path) -> None:
    for block in code_blocks(page, "toml"):
        tomllib.loads(block)


def test_the_listing_of_the_readme_names_real_files() -> None:
    listing = code_blocks(ROOT / "README.md", "text")[0]
    names = [line.split()[0] for line in listing.splitlines()]
    assert len(names) > 10
    assert not [name for name in names if not (ROOT / name).exists()]


def test_the_tables_hold_every_setting_and_its_default() -> None:
    pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("data.md", "training.md")]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+?) \|", "\n".join(pages), re.MULTILINE))
    groups = {"": Config, "data.": DataConfig, "model.": ModelConfig, "training.": TrainingConfig}
    expected = {}
    for prefix, cls in groups.items():
        for field in dataclasses.fields(cls):
            value = to_table(getattr(cls(), field.name))
            if not dataclasses.is_dataclass(getattr(cls(), field.name)):
                expected[prefix + field.name] = "not set" if value is None else f"`{json.dumps(value)}`"
    assert {name: default for name, default in rows.items() if name in expected} == expected


def test_the_table_of_methods_holds_every_method_and_its_parameters() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| (\d) \| ([\d,]+) \|$", page, re.MULTILINE)
    written = {name: (int(rounds), int(count.replace(",", ""))) for name, rounds, count in rows}
    models = {name: build_network(Config(method=name), classes=4, channels=1) for name in METHODS}
    assert written == {name: (model.rounds, count_parameters(model, 1)) for name, model in models.items()}


def test_the_two_commands_of_the_readme_come_first() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    run, tests = code_blocks(ROOT / "README.md", "bash")[:2]
    assert "train.py --fold 0" in run
    assert "-m pytest" in tests
    assert f"<!-- run -->\n```bash\n{run}```" in text
    assert f"<!-- test -->\n```bash\n{tests}```" in text


def test_pre_commit_uses_the_version_of_ruff_that_the_project_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = next(each for each in project["optional-dependencies"]["dev"] if each.startswith("ruff=="))
    assert f"rev: v{pinned.removeprefix('ruff==')}\n" in (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def test_the_idea_in_the_readme_trains_as_it_stands_there(tmp_path, monkeypatch, capsys):
    idea = next(block for block in code_blocks(ROOT / "README.md", "python") if "def entropy" in block)
    settings = 'load_config("quickstart", training={"epochs": 40})'
    assert settings in idea
    small = (
        'load_config("quickstart", data={"synthetic_images": 6, "synthetic_size": 32, "crop": 32}, '
        'training={"epochs": 4, "batch_size": 8, "previews": 0})'
    )
    idea = idea.replace(settings, small).replace("widths=(8, 16, 32)", "widths=(2, 4)")
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "__main__"}
    exec(compile(idea, "README.md", "exec"), space)
    assert (tmp_path / "runs/entropy/report.html").exists()

    parts = next(block for block in code_blocks(ROOT / "README.md", "python") if "from_arrays" in block)
    space["labels"] = np.arange(6 * 32 * 32).reshape(6, 32, 32) % 2
    space["images"] = space["labels"].astype(np.uint8)
    exec(compile(parts.replace("widths=(8, 16, 32)", "widths=(2, 4)"), "README.md", "exec"), space)
    assert space["result"].iou.keys() == {"background", "cell"}
    assert re.fullmatch(r"0\.\d+ 0\.\d+ runs/entropy/report.html\n", capsys.readouterr().out)
