"""``fbunet check``: every fault of a data set at once, and what it consists of."""

import dataclasses
import shlex
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from fbunet_jax.cli.options import given_option, spelled
from fbunet_jax.config import Config, load_config
from fbunet_jax.errors import ConfigError, UserError
from fbunet_jax.user_files import expand, expand_text, missing, real

if TYPE_CHECKING:
    from fbunet_jax.check.checks import Check
    from fbunet_jax.check.findings import Finding

EXIT_FAULTS = 1
SETTINGS_FILE = "fbunet.toml"
_LISTED = 5


@dataclass(frozen=True)
class Arguments:
    """Find every fault of a data set at once, and say what it consists of."""

    directory: Annotated[str, tyro.conf.Positional] = ""
    """Folder of the data set; data.root of the configuration by default. Its layout is recognised unless set."""
    config: str = ""
    """A TOML file, or the name of a configuration that comes with the program; by default fbunet.toml in the folder
    if it is there, or else quickstart. The options below override it."""
    out: str = ""
    """HTML page to write; check-<name>.html in the current folder by default, or in the temporary folder if that lies
    in the data set."""
    debug: bool = False
    """Show the traceback of an error."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def command(options: Sequence[str], prog: str) -> int:
    """Check a data set and return 0 without faults, 1 with; what cannot be read at all raises a UserError."""
    arguments, chosen = _parsed(options, prog)
    config = with_directory(arguments.settings, expand_text(arguments.directory))
    page = expand(arguments.out) if arguments.out else _default_page(config.data.layout, config.data.root)
    if page.is_dir():
        raise ConfigError(f"--out {page} is a folder. Give the name of the page, such as {page / 'check.html'}.")
    from fbunet_jax.check.checks import check_dataset
    from fbunet_jax.check.page import render

    check = check_dataset(config.data, progress_bar)
    check = dataclasses.replace(check, findings=(*settings_faults(config, check), *check.findings))
    name = real(Path(config.data.root)).name if config.data.root else config.data.layout
    facts = describe(config, check, chosen=bool(chosen))
    for title, value in facts:
        print(f"{title:8}  {value}")
    print_findings("fault", check.faults)
    print_findings("warning", check.warnings)
    page = _write_page(page, render(check, name, facts), chosen=bool(arguments.out))
    print(f"\nPage with thumbnails: {page}")
    if check.faults:
        return EXIT_FAULTS
    print(f"Next: {_train_command(config, check, chosen, _overrides(options, arguments.directory), prog)}")
    return 0


def progress_bar(steps: Iterable[Any], what: str) -> Iterable[Any]:
    """Return the steps of a check with a progress bar, if they take longer than a moment."""
    from tqdm import tqdm

    return tqdm(steps, what, unit="file" if what == "Reading" else "step", leave=False, delay=2)


def with_directory(config: Config, directory: str) -> Config:
    """Return the settings for a folder: data.root, and the layout that it shows unless one is set.

    Raises:
      ConfigError: data.root names another folder.
    """
    data = config.data
    if directory and data.root and real(Path(directory)) != real(Path(data.root)):
        raise ConfigError(f"The folder is {directory}, but data.root = {data.root!r}. Give one of them.")
    root = directory or data.root
    if not root:
        return config
    if not Path(root).is_dir():
        raise ConfigError(f"{root} {missing(Path(root))}: expected the folder of a data set.")
    from fbunet_jax.data.datasets import detect_layout

    # no layout but the synthetic one can be read without a folder
    layout = detect_layout(Path(root)) if data.layout == "synthetic" else data.layout
    return dataclasses.replace(config, data=dataclasses.replace(data, root=root, layout=layout))


def settings_faults(config: Config, check: "Check") -> "list[Finding]":
    """Return what does not fit between the network's settings and the images."""
    if not check.images or not check.classes:
        return []
    # JAX starts here, after the reading
    from fbunet_jax.check.findings import as_finding
    from fbunet_jax.networks import build_network
    from fbunet_jax.training.setup import check_crop, settings_loss

    faults = []
    channels = check.images[0].size[2]
    for attempt in (
        lambda: check_crop(config, config.model.multiple),
        lambda: build_network(config, classes=len(check.classes), channels=channels),
        lambda: settings_loss(config, check.pixels),
    ):
        try:
            attempt()
        except UserError as error:
            faults.append(as_finding(error))
    return faults


def describe(config: Config, check: "Check", *, chosen: bool) -> list[tuple[str, str]]:
    """Return name and value of what a data set consists of.

    Args:
      config: the settings.
      check: what was found.
      chosen: whether the user gave a configuration; crop and batch size are proposals otherwise.
    """
    from fbunet_jax.check.divisions import neighbour_fact
    from fbunet_jax.check.page import fold_spans

    data, images = config.data, check.images
    facts = [("Data set", f"{data.root} ({data.layout})" if data.root else data.layout)]
    if check.naming:
        facts.append(("Files", check.naming))
    sizes = sorted({image.size for image in images}, key=lambda size: size[0] * size[1])
    if sizes:
        ends = [f"{size[0]} x {size[1]}" for size in (sizes[0], sizes[-1])]
        extent = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
        channels = " or ".join(map(str, sorted({size[2] for size in sizes})))
        kinds = " or ".join(sorted({image.dtype for image in images}))
        groups = len({image.group for image in images})
        text = f"{len(images)} of {extent} pixels, {channels} channel{'' if channels == '1' else 's'}, {kinds}, "
        without = f"; {check.left_out} pages without a label are left out" if check.left_out else ""
        facts.append(("Images", f"{text}in {groups} group{'s' if groups != 1 else ''}{without}"))
    facts.append(("Classes", _class_shares(check)))
    if check.folds:
        parts = [len(getattr(check.folds[0], part)) for part in ("train", "validation", "test")]
        text = (
            f"{len(check.folds)} ({data.fold_scheme}); groups of fold 0: {parts[0]} training, {parts[1]} validation, "
        )
        tests = "; ".join(fold["test"] for fold in fold_spans(check.folds))
        facts.append(("Folds", f"{text}{parts[2]} test. Tested: {tests}"))
        order = neighbour_fact(check.contents, check.folds)
        if order and data.fold_scheme != "split":
            facts.append(("Order", order))
    crop, batch = crop_and_batch(config, check, chosen=chosen)
    origin = "set" if chosen else "proposed"
    facts.append(("Training", f"crop of {crop} x {crop} pixels, batch of {batch} ({origin})"))
    return facts


def crop_and_batch(config: Config, check: "Check", *, chosen: bool) -> tuple[int, int]:
    """Return crop side and batch size: those of the settings if the user chose them, or else a proposal."""
    from fbunet_jax.check.proposals import propose_batch, propose_crop

    if chosen or not check.images:
        return config.data.crop, config.training.batch_size
    sizes = [image.size[:2] for image in check.images]
    crop = propose_crop(sizes, config.model.multiple)
    return crop, propose_batch(crop, sizes)


def print_findings(severity: str, findings: "Sequence[Finding]") -> None:
    """Print findings by kind: the rule, then each file with what was found and what to do."""
    from fbunet_jax.check.page import by_kind

    if not findings:
        print(f"\nNo {severity}s.")
        return
    print(f"\n{len(findings)} {severity}{'s' if len(findings) != 1 else ''}")
    for kind, rule, members in by_kind(findings):
        print(f"  {kind}. Expected: {rule}")
        for index, finding in enumerate(members[:_LISTED]):
            print(f"    {finding.file}{' ' if finding.file else ''}{finding.found}")
            following = members[index + 1].remedy if index + 1 < len(members[:_LISTED]) else ""
            if finding.remedy and finding.remedy != following:
                print(f"      To do: {finding.remedy}")
        if members[_LISTED:]:
            print(f"    … and {len(members) - _LISTED} more, which the page lists")


def _parsed(options: Sequence[str], prog: str) -> tuple[Arguments, str]:
    """Return the options over the chosen configuration, and the configuration that was chosen, if any."""
    chosen = given_option(options, "--config", "")
    base = Arguments(settings=load_config(chosen or "quickstart"))
    arguments = tyro.cli(Arguments, args=options, default=base, prog=prog)
    if not arguments.directory:
        return arguments, chosen
    # the folder stands in the place of the configuration's own, yet not of --data.root
    directory = expand_text(arguments.directory)
    beside = Path(directory) / SETTINGS_FILE
    chosen = chosen or (str(beside) if beside.is_file() else "")
    base = Arguments(settings=load_config(chosen or "quickstart", **{"data.root": directory}))
    return tyro.cli(Arguments, args=options, default=base, prog=prog), chosen


def _class_shares(check: "Check") -> str:
    total = int(check.pixels.sum())
    if not check.classes:
        shown = ", ".join(f"{value} ({count} pixels)" for value, count in list(check.values.items())[:12])
        return f"not described; values in the labels: {shown or 'none could be read'}"
    shares = (
        f"{name} {percent(count / max(1, total))}"
        for name, count in zip(check.classes, check.pixels.tolist(), strict=True)
    )
    ignored = f"; ignored {percent(check.ignored / (check.ignored + total))} of all pixels" if check.ignored else ""
    return ", ".join(shares) + ignored


def percent(share: float) -> str:
    """Return a share in words: one decimal, or two digits where it is small."""
    return f"{100 * share:.1f} %" if share >= 0.01 or share == 0 else f"{100 * share:.2g} %"


def _default_page(layout: str, root: str) -> Path:
    """Return where the page goes: the current folder, or a temporary one if that lies in the data set."""
    from fbunet_jax.check.initial import plain_name

    page = Path(f"check-{plain_name(Path(root)) if root else layout}.html")
    if root and real(Path.cwd()).is_relative_to(real(Path(root))):
        return Path(tempfile.gettempdir()) / page
    return page


def _write_page(page: Path, text: str, *, chosen: bool) -> Path:
    """Write the page, or, where its folder cannot be written and the user has not chosen it, a temporary one."""
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    except OSError:
        if chosen:
            raise
        page = Path(tempfile.gettempdir()) / page.name
        page.write_text(text, encoding="utf-8")
    return page


def _overrides(options: Sequence[str], directory: str) -> list[str]:
    """Return the settings among the options, which training needs too."""
    words: list[str] = []
    kept = False
    for word in options:
        if word.startswith("--"):
            kept = word.startswith(("--data.", "--model.", "--training.", "--axes", "--method", "--name", "--seed"))
        if kept and word != directory:
            words.append(word)
    return words


def _train_command(config: Config, check: "Check", chosen: str, overrides: list[str], prog: str) -> str:
    from fbunet_jax.check.initial import plain_name

    words = []
    if chosen:
        words = ["--config", chosen]
        known = real(Path(load_config(chosen).data.root)) == real(Path(config.data.root))
        words += [] if known or not config.data.root else ["--data.root", config.data.root]
    elif config.data.root:
        crop, batch = crop_and_batch(config, check, chosen=False)
        words = ["--data.layout", config.data.layout, "--data.root", config.data.root, "--data.crop", str(crop)]
        words += ["--training.batch-size", str(batch), "--training.epochs", "200"]
        words += ["--name", plain_name(Path(config.data.root))]
    given = {word.replace("_", "-").partition("=")[0] for word in overrides}
    pairs = [words[place : place + 2] for place in range(0, len(words), 2)]
    words = [word for pair in pairs if pair[0] not in given for word in pair]
    return f"{spelled('train', prog)} {shlex.join([*words, *overrides])}".rstrip()
