"""``fbunet evaluate``: a run's folds on their test or validation part."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fbunet_jax.cli.options import parse_folds
from fbunet_jax.evaluation.variants import Maps
from fbunet_jax.runs.directory import Run


@dataclass(frozen=True)
class Arguments:
    """Evaluate the best checkpoint of every fold and print IoU by class, fold and round."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, such as runs/quickstart/feedback-convlstm."""
    fold: str = "all"
    """Which fold: 0, 1, ..., or all that are trained."""
    split: Literal["test", "validation"] = "test"
    """Which part of each fold."""
    tta: bool = False
    """Average over the 8 rotations and mirror images of each tile (test-time augmentation), which takes 8 times as
    long; the results lie beside the others, and no page is written."""
    whole: bool = False
    """Evaluate whole images where data.cut has cut them, as predict segments them; the results lie beside the others,
    and no page is written."""
    crops: Annotated[int, tyro.conf.arg(metavar="PIXELS")] = 0
    """Evaluate crops of this side, each by itself as in the paper's protocol, where data.cut has left the images whole;
    likewise."""
    objects: Annotated[int, tyro.conf.arg(metavar="PIXELS")] = 0
    """Also count objects: how many of at least so many pixels the segmentation found, and how many of its own are
    right. Through the sections of a stack an object counts once. 0 does not count."""
    maps: Maps = "own"
    """Which class maps the later rounds of a feedback method are given: the image's own; zeros; or those of another
    image of the part, which takes twice as long. All else stays, so that the difference shows whether the feedback is
    used. The results of zeros and other lie beside those of own, and no page is written."""
    offsets: bool = False
    """Add offsets to the logits of the classes, fitted on each fold's validation part unless the fold has them already;
    the results lie beside the others, and no page is written."""
    data_root: str = ""
    """Folder of the data set, where it is no longer where the run found it."""
    out: str = ""
    """Folder for the results; the run directory by default, or, where that cannot be written,
    evaluation-<config>-<method> in the current folder."""
    report: bool = True
    """Write report.html, one page with the numbers and pictures."""
    debug: bool = False
    """Show the traceback of an error."""


def command(options: Sequence[str], prog: str) -> int:
    """Evaluate a run's folds on their test or validation part."""
    arguments = tyro.cli(Arguments, args=options, prog=prog)
    from fbunet_jax.evaluation.crossval import evaluate
    from fbunet_jax.evaluation.places import with_results
    from fbunet_jax.evaluation.report import write_report
    from fbunet_jax.evaluation.scores import missing_folds, table

    run = Run(Path(arguments.run))
    count = run.read_config().data.folds
    run = with_results(run, arguments.out, lambda line: print(line, flush=True))
    folds = None if arguments.fold == "all" else parse_folds(arguments.fold, count)
    evaluation = evaluate(
        run.path,
        folds,
        split=arguments.split,
        root=arguments.data_root,
        tta=arguments.tta,
        whole=arguments.whole,
        crops=arguments.crops,
        objects=arguments.objects,
        maps=arguments.maps,
        offsets=arguments.offsets,
        out=run.results,
        tell=lambda line: print(line, flush=True),
    )
    print(table(evaluation))
    if missing := missing_folds(evaluation, count):
        present = ", ".join(str(entry["fold"]) for entry in evaluation["folds"])
        absent = ", ".join(map(str, missing))
        print(f"Missing: fold {absent} of {count}; mean, std and summed are over fold {present} only.")
    print(f"Written: {run.evaluation(evaluation['split'])}", flush=True)
    if arguments.report and evaluation["split"] == arguments.split:  # not one that lies beside it
        page = write_report([arguments.run], split=arguments.split, root=arguments.data_root, results=run.results)
        print(f"Written: {page}")
    return 0
