"""The report in a real browser: it opens, it can be read and used by everybody, and it says what it must."""

import re
import shutil

import pytest

from fbunet_jax.errors import RunError
from fbunet_jax.evaluation.crossval import evaluate
from fbunet_jax.evaluation.pictures import rank, worst_and_best
from fbunet_jax.evaluation.report import write_report
from fbunet_jax.evaluation.scores import present_items
from fbunet_jax.evaluation.summary import moves, scores
from fbunet_jax.runs.directory import Run

CLASSES = ("cytoplasm", "membrane", "mitochondria", "synapse")


@pytest.fixture(scope="module")
def runs(make_run, tmp_path_factory):
    """Two runs with feedback and one of a single round, two of three folds each."""
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / method, method) for method in ("feedback-convlstm", "feedback-conv", "unet")]


@pytest.fixture(scope="module")
def page(runs):
    """The report of the three runs, none of which has been evaluated before, but for the maps of another image."""
    evaluate(runs[0], maps="other")
    return write_report(runs)


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
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def opened(browser, page):
    """Return a function that opens the page at a width, light or dark."""

    def show(width=1200, scheme="light", file=page):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(file.as_uri())
        browser.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
        return browser

    return show


def test_the_page_opens_without_a_message_in_the_console_and_every_picture_is_there(opened):
    browser = opened()
    assert browser.get_log("browser") == []
    pictures = browser.execute_script(
        "return [...document.images].map(i => [i.complete && i.naturalWidth, i.alt, i.currentSrc.slice(0, 5)])"
    )
    assert len(pictures) > 20
    assert all(width >= 32 and alt and source == "data:" for width, alt, source in pictures)


def test_the_page_needs_no_network(page):
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    without_pictures = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
    assert not re.findall(r"https?:|<link|@import|url\(", without_pictures)
    assert page.stat().st_size < 8e6


# what lies on top, by the browser's own hit test, which honours clipping and needs no painted frame
ON_TOP = """
    arguments[0].scrollIntoView({block: "center", behavior: "instant"});
    const box = arguments[0].getBoundingClientRect();
    return arguments[1].map(x => document.elementFromPoint(box.left + x * box.width, box.top + box.height / 2));
"""


def test_the_slider_uncovers_the_truth_by_key_and_by_drag(opened):
    webdriver = pytest.importorskip("selenium.webdriver")
    browser = opened()
    card = browser.find_element("css selector", ".card")
    slider, stack = card.find_element("css selector", "input"), card.find_element("css selector", ".stack")
    prediction, truth = stack.find_elements("css selector", "img")
    assert prediction.get_attribute("src") != truth.get_attribute("src")
    places = [0.02, 0.2, 0.4, 0.6, 0.8, 0.98]

    def on_top():
        return browser.execute_script(ON_TOP, stack, places)

    slider.send_keys("\ue011")  # the key Home
    assert on_top() == [prediction] * 6
    slider.send_keys("\ue010")  # the key End
    assert on_top() == [truth] * 6
    assert slider.get_attribute("aria-valuetext") == "100 % truth, from the left"
    slider.send_keys("\ue012")  # the left arrow
    assert slider.get_attribute("value") == "99"
    middle = webdriver.ActionChains(browser).move_to_element(stack).click_and_hold()
    middle.move_by_offset(-stack.size["width"] // 4, 0).release().perform()
    assert abs(int(slider.get_attribute("value")) - 25) <= 2
    assert on_top() == [truth] * 2 + [prediction] * 4


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_the_page_does_not_scroll_sideways(opened, width):
    browser = opened(width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    sticking_out = """
        const clipped = (e) => e.closest('.scroll') !== null;
        return [...document.querySelectorAll('body *')].filter(e => !clipped(e) && !e.closest('svg')
          && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80));
    """
    assert browser.execute_script(sticking_out) == []


CONTRASTS = """
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgba = (css) => {
      canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = (c) => {
      const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const [r, g, b] = c.slice(0, 3).map(v => linear(v / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (e) => {
      for (; e; e = e.parentElement) {
        const c = rgba(getComputedStyle(e).backgroundColor);
        if (c[3] === 255) return c;
      }
      return [255, 255, 255, 255];
    };
    return [...document.querySelectorAll('body *')]
      .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.tagName !== 'SCRIPT')
      .map(e => {
        const style = getComputedStyle(e);
        const front = rgba(e.namespaceURI.endsWith('svg') ? style.fill : style.color);
        const [a, b] = [luminance(front), luminance(behind(e))].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)];
      });
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(opened, scheme):
    browser = opened(scheme=scheme)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3]))
    assert (brightness < 120) == (scheme == "dark")
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 100
    assert [each for each in found if each[0] < 4.5] == []


def test_every_control_picture_and_region_has_a_name_of_its_own(opened):
    nodes = opened().execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names = {}
    for node in nodes:
        if not node["ignored"]:
            names.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert len(names["slider"]) == 4  # the two folds test four images
    for role in ("slider", "link", "image", "region", "DisclosureTriangle"):
        assert names[role]
        assert all(names[role]), role
    assert len(set(names["slider"])) == len(names["slider"])
    assert names["heading"][0] == "feedback-convlstm on quickstart"


def test_every_control_is_reached_by_the_tab_key(opened):
    browser = opened()
    controls = browser.execute_script("return document.querySelectorAll('input, a, summary').length")
    reached = set()
    for _ in range(controls + 40):
        browser.switch_to.active_element.send_keys("\ue004")
        reached.add(browser.execute_script("return document.activeElement.outerHTML.slice(0, 150)"))
        if len({each for each in reached if re.match("<(input|a |summary)", each)}) == controls:
            return
    pytest.fail(f"only {len(reached)} of {controls} controls were reached")


def test_the_page_names_missing_folds_split_setting_command_versions_time_and_memory(opened, page):
    text = opened().find_element("tag name", "body").text
    assert "Fold 2 of 3 is missing" in text
    assert "Test split, fold 0, 1" in text
    assert "train.py --name 'a <b> c'" in text
    assert "synthetic_images = 6" in text
    assert "90 s" in text
    assert "1.00 GiB" in text
    assert "jax\na checkout" in text
    assert f"This page is {page.stat().st_size / 1e6:.1f} MB" in text
    for title in ("Methods side by side", "Feature maps", "What the feedback changed", "Learning curves"):
        assert title in text
    part = text[text.index("Is the feedback used?") :]
    assert part.index("own maps maps of another image difference") < part.index("feedback-convlstm --maps zeros, then")


def test_methods_stand_side_by_side_and_feature_maps_only_of_feedback(opened):
    browser = opened()

    def captions(part):
        return [each.text for each in browser.find_elements("css selector", f"{part} .panels figcaption")]

    row = captions("#methods")[:5]
    assert row[:2] == ["Image", "Truth"]
    assert [re.sub(r", IoU [\d.]+ %", "", each) for each in row[2:]] == ["feedback-convlstm", "feedback-conv", "unet"]
    assert captions("#features") == ["Image", "feedback-convlstm, round 2", "feedback-conv, round 2"]


def test_the_numbers_of_the_page_are_those_of_the_evaluation(opened, runs):
    table = opened().find_element("css selector", "#scores table").text.splitlines()
    evaluation = evaluate(runs[0])
    mean = next(line for line in table if line.startswith("mean ")).split()
    assert mean[1] == f"{100 * evaluation['mean']['mean_iou']:.1f}"
    assert mean[-2:] == [f"{100 * fold['mean_iou']:.1f}" for fold in evaluation["folds"]]


def test_a_run_of_one_round_and_one_fold_has_a_report_without_feedback(make_run, tmp_path, opened):
    run = make_run(tmp_path / "run", "unet", folds=(0,))
    browser = opened(file=write_report([run], split="validation"))
    assert (run / "report-validation.html").exists()
    text = browser.find_element("tag name", "body").text
    assert "These are the validation images" in text
    assert "What the feedback changed" not in text
    assert "Feature maps" not in text
    assert "Only 1 group was tested: there is no interval" in text
    assert browser.get_log("browser") == []


def test_what_has_been_counted_is_not_counted_again(runs, page, monkeypatch):
    assert page.exists()
    monkeypatch.setattr("fbunet_jax.evaluation.report.evaluate_folds", lambda *_, **__: pytest.fail("evaluated again"))
    write_report(runs[:1], out=page.with_name("again.html"))


def test_scores_and_moves_are_those_of_a_count_by_hand(runs, page):
    assert page.exists()
    folds = present_items(Run(runs[0]), "test")
    found = scores(CLASSES, folds)
    total = sum(counts.confusion.sum(axis=0) for counts in folds)[-1]  # no group is in two of these test sets
    for index, row in enumerate(found["rows"][:-1]):
        union = total[index].sum() + total[:, index].sum() - total[index, index]
        assert row["pooled"] == pytest.approx(total[index, index] / union)
    assert found["groups"] == found["images"] == 4
    table = sum(counts.moves.sum(axis=0) for counts in folds)
    moved = [(t, a, b, table[t, a, b]) for t in range(4) for a in range(4) for b in range(4) if a != b]
    summary = moves(CLASSES, folds)
    assert summary["moved"] == sum(count for *_, count in moved) > 0
    fates = [each["pixels"] for each in summary["fates"]]
    assert fates == [
        sum(count for t, a, b, count in moved if b == t),
        sum(count for t, a, b, count in moved if a == t),
        sum(count for t, a, b, count in moved if t not in (a, b)),
    ]
    truth_0, last_0 = (sum(m[3] for m in moved if m[axis] == 0) for axis in (0, 2))
    right_0 = sum(count for t, a, b, count in moved if t == b == 0)
    assert summary["last"][0] == pytest.approx(right_0 / (truth_0 + last_0 - right_0))


@pytest.mark.parametrize(("images", "worst", "best"), [(1, 1, 0), (4, 2, 2), (5, 3, 2), (6, 3, 3), (9, 3, 3)])
def test_no_image_is_both_among_the_worst_and_the_best(images, worst, best):
    found = worst_and_best(list(range(images)), 3)
    assert found == (list(range(worst)), list(range(images - 1, images - 1 - best, -1)))


def test_images_are_ranked_from_the_lowest_iou_up(runs, page):
    assert page.exists()
    ranked = rank(present_items(Run(runs[0]), "test"))
    assert [each.mean_iou for each in ranked] == sorted(each.mean_iou for each in ranked)
    assert len({each.name for each in ranked}) == 4


def test_other_data_and_runs_without_training_are_refused(runs, make_run, tmp_path):
    other = make_run(tmp_path / "other", "unet", synthetic_seed=5)
    with pytest.raises(RunError, match="other images or labels"):
        write_report([runs[0], other])
    with pytest.raises(RunError, match="no trained fold"):
        write_report([make_run(tmp_path / "empty", "unet", folds=())])
