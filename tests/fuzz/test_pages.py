"""The pages in a real browser: what a file or a class is called is shown as text, and never becomes part of a page."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from fbunet_jax.cli import main
from fbunet_jax.config import load_config
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.evaluation.report import write_report
from fbunet_jax.runs.directory import Run
from fbunet_jax.runs.opening import open_run
from tests.evaluation.conftest import write_fold

ATTACK = "window.taken=1"
CLASSES = (
    f"<script>{ATTACK}</script>",
    f"\"><img src=x onerror={ATTACK}>'&amp;",
    "</title></style></script>{{ 7 * 7 }}",
)
NAME = f"<img src=x onerror={ATTACK}>"
"""No file name holds a slash."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set whose folder, images, groups and classes are called like parts of a page."""
    root = tmp_path_factory.mktemp("data") / f"{NAME} root"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for index in range(6):
        stem = f"{NAME}{index}"
        generator = np.random.default_rng(index)
        tifffile.imwrite(root / f"images/{stem}.tif", generator.integers(0, 200, (40, 40)).astype(np.uint8))
        Image.fromarray(generator.integers(0, 3, (40, 40)).astype(np.uint8)).save(root / f"labels/{stem}.png")
    # found by the check: a file that cannot be used, and two images that are the same
    (root / f"images/{NAME}.gif").write_bytes(b"GIF")
    classes = ", ".join(f"{json.dumps(name)} = {value}" for value, name in enumerate(CLASSES))
    (root / "dataset.toml").write_text(f"classes = {{{classes}}}\n")
    return root


@pytest.fixture(scope="module")
def pages(root, tmp_path_factory):
    """The pages of the check with and without classes, and the reports of one run and of two."""
    folder = tmp_path_factory.mktemp("pages")
    assert main(["check", str(root), "--out", str(folder / "check.html")]) == 1
    described = (root / "dataset.toml").read_text()
    (root / "dataset.toml").write_text(f"{json.dumps(NAME)} = 1\n")
    assert main(["check", str(root), "--out", str(folder / "broken.html")]) == 1
    (root / "dataset.toml").write_text(described)
    (root / f"images/{NAME}.gif").unlink()
    runs = [make_run(folder / f"{NAME} run {method}", method, root) for method in ("feedback-conv", "unet")]
    write_report(runs[:1], out=folder / "report.html")
    write_report(runs, out=folder / "reports.html")
    return folder


def make_run(path, method, root):
    """Write a run with random weights, whose records are called like parts of a page too."""
    config = load_config(
        "quickstart",
        name="&lt;img onerror='x'&gt; {{ 7 + 7 }}",
        method=method,
        data={"layout": "folder", "root": str(root), "folds": 3, "crop": 32},
        model={"widths": [3, 4], "feedback": None},
        training={"batch_size": 8},
    )
    dataset, run = load_dataset(config.data), Run(path)
    open_run(config, dataset, run)
    write_fold(run, config, dataset, 0)
    environment = {"command": [CLASSES[0]], "python": CLASSES[0], "platform": CLASSES[1], "devices": [CLASSES[0]]}
    run.fold(0).environment.write_text(json.dumps({**environment, "versions": {CLASSES[0]: CLASSES[2]}}))
    return path


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium and chromedriver (Debian: chromium, chromium-driver) are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


SHOWN = {
    "check.html": (*CLASSES, f"{NAME}0", f"{NAME}.gif", f"{NAME} root"),
    "broken.html": (f"{NAME}0", f"unknown key {NAME!r}"),
    "report.html": (*CLASSES, f"{NAME}0", f"{NAME} root", f"{NAME} run"),
    "reports.html": (*CLASSES, f"{NAME}0", "&lt;img onerror='x'&gt; {{ 7 + 7 }}"),
}


@pytest.mark.parametrize("page", SHOWN)
def test_every_name_is_shown_as_it_is_and_nothing_of_it_is_executed(page, pages, browser):
    browser.get((pages / page).as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    text = browser.execute_script("return document.documentElement.textContent")
    for name in SHOWN[page]:
        assert name in text
    assert browser.execute_script("return window.taken") is None
    scripts = browser.execute_script("return [...document.scripts].map(each => each.text)")
    assert len(scripts) == page.startswith("report")
    assert not any(ATTACK in script for script in scripts)
    handlers = """return [...document.querySelectorAll('*')].filter(
        each => [...each.attributes].some(a => a.name.startsWith('on')) || each.getAttribute('src') === 'x').length"""
    assert browser.execute_script(handlers) == 0


def test_a_page_that_does_not_escape_would_be_noticed(pages, browser):
    text = (pages / "check.html").read_text(encoding="utf-8")
    (pages / "naive.html").write_text(text.replace("&lt;", "<").replace("&gt;", ">"), encoding="utf-8")
    browser.get((pages / "naive.html").as_uri())
    assert browser.execute_script("return document.scripts.length") > 0
    assert browser.execute_script("return window.taken") == 1
