"""``fbunet train``: train folds of one method, or resume them."""

import os
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from fbunet_jax.cli.distributed import Distributed, joined
from fbunet_jax.cli.options import given_option, parse_folds, size_text, spelled
from fbunet_jax.cli.trainings import check_grid
from fbunet_jax.config import Config, load_config
from fbunet_jax.errors import ConfigError
from fbunet_jax.experiments.grid import Grid, Place, default_runs, runs_beside
from fbunet_jax.runs.interruption import raise_on_signals


@dataclass(frozen=True)
class Arguments:
    """Train folds of one method. The same command again resumes from the last checkpoint."""

    fold: str = "0"
    """Which fold: 0, 1, ..., or all, one after the other."""
    config: str = "quickstart"
    """A TOML file, or the name of a configuration that comes with the program. The options below override it."""
    out: str = ""
    """Run directory; runs/<config>/<method> by default, -seed<s> added for a seed other than 0."""
    fresh: bool = False
    """Set an existing fold aside (fold_K.old-N) and start again."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Train each fold with N seeds, from --seed on, and tell the spread; a run directory each, as for --seed."""
    deterministic: bool = False
    """Only kernels that give the same bits every time. On a CPU they do so anyway; on a GPU it costs speed."""
    dry_run: bool = False
    """Try every part of this training in a temporary folder, then tell how long all of it will take, and exit."""
    debug: bool = False
    """Show the traceback of an error."""
    distributed: Distributed = field(default_factory=Distributed)
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def command(options: Sequence[str], prog: str) -> int:
    """Train folds of one method, or resume them."""
    defaults = Arguments(settings=load_config(given_option(options, "--config", Arguments.config)))
    arguments = tyro.cli(Arguments, args=options, default=defaults, prog=prog)
    raise_on_signals()  # the lock is released, so that a preempted job can start elsewhere at once
    if arguments.deterministic:  # read when JAX starts its first device
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    config, out = arguments.settings, arguments.out or None
    run = runs_beside(out, config.seed) if out else default_runs(config)
    folds = parse_folds(arguments.fold, config.data.folds)
    grid = check_grid(config, [config.method], folds, arguments.seeds, run)
    if arguments.dry_run and arguments.seeds > 1:
        raise ConfigError("--dry-run rehearses one seed: leave --seeds out; the others take as long again.")
    with joined(arguments.distributed):
        # after parsing, so that --help does not wait for JAX
        from fbunet_jax.runs.processes import are_many
        from fbunet_jax.training.memory import reuse_host_memory

        reuse_host_memory()
        if not arguments.dry_run:
            _train_folds(grid, arguments.fresh, prog)
            return 0
        if are_many():
            raise ConfigError("--dry-run rehearses a training in one process: give it on one host.")
        return _rehearse(config, folds, out)


def _train_folds(grid: Grid, fresh: bool, prog: str) -> None:
    """Train every fold with every seed, and tell what came out, the spread between seeds too."""
    from fbunet_jax.runs.processes import is_first

    for fold in grid.folds:
        scores = {place.seed: _train(grid, place, fresh, prog) for place in grid if place.fold == fold}
        if len(scores) > 1 and is_first():
            values = ", ".join(f"{score:.1f} (seed {seed})" for seed, score in scores.items())
            mean, deviation = statistics.mean(scores.values()), statistics.stdev(scores.values())
            print(
                f"Fold {fold} with {len(scores)} seeds: best validation mean IoU {mean:.1f} % with standard deviation "
                f"{deviation:.1f}: {values}."
            )


def _train(grid: Grid, place: Place, fresh: bool, prog: str) -> float:
    """Train a fold, tell what came out, and return the best validation mean IoU in percent."""
    from fbunet_jax.runs.processes import is_first
    from fbunet_jax.training.fold import train

    result = train(grid.settings(place), place.fold, out=grid.run(place).path, fresh=fresh)
    state = "was finished already" if result.was_finished else "is finished"
    previews = f"  previews     {result.directory.previews}\n" if grid.config.training.previews else ""
    score = 100 * result.best_mean_iou
    if not is_first():
        return score
    print(
        f"Fold {place.fold} {state}: best validation mean IoU {score:.1f} % at step {result.best_step} of "
        f"{result.steps}.\n"
        f"  checkpoints  {result.directory.checkpoints}\n"
        f"  curves       {result.directory.curves}\n"
        f"{previews}"
        f"Next: {spelled('evaluate', prog)} {shlex.quote(str(result.run))} --fold {place.fold}"
    )
    return score


def _rehearse(config: Config, folds: list[int], out: str | None) -> int:
    """Try everything, and print what the whole run will take."""
    from fbunet_jax.accelerators import rehearsal
    from fbunet_jax.tables import duration

    estimate = rehearsal.dry_run(config, folds, out=out, tell=lambda line: print(line, flush=True))
    costs, work = estimate.costs, estimate.work[folds[0]]
    device = "not told by this device" if estimate.device_bytes is None else size_text(estimate.device_bytes)
    print(
        f"\nEverything works; nothing is left behind. One thing at a time, compiled:\n"
        f"  step          {costs.step:8.3f} s  x {work.steps} (median of {estimate.groups} groups)\n"
        f"  validation    {costs.batch:8.3f} s  x {work.batches} batches in {work.validations} validations\n"
        f"  checkpoint    {costs.save:8.3f} s  x {work.validations}\n"
        f"  pictures      {costs.picture:8.3f} s  x {work.pictures}\n"
        f"  epoch record  {costs.record:8.3f} s  x {work.records}\n"
        f"  reading data  {costs.start:8.3f} s\n"
        f"What the run will take, from its beginning:\n"
        f"  time          {duration(estimate.seconds)} for {len(folds)} fold{'s' if folds[1:] else ''}"
        f" (fold {folds[0]}: {duration(costs.seconds(work))})\n"
        f"  compiling     {duration(costs.compiling)} a fold on top; less where the compilation cache has the program\n"
        f"  host memory   {size_text(estimate.host_bytes)}\n"
        f"  device memory {device}\n"
        f"  checkpoints   {size_text(estimate.disk_bytes)} on disk for each fold"
    )
    return 0
