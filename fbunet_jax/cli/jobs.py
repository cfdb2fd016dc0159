"""``fbunet jobs``: job files for a cluster or a cloud."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import tyro

from fbunet_jax.cli.trainings import TrainingArguments, check_trainings, given_base
from fbunet_jax.errors import ConfigError
from fbunet_jax.experiments.job_files import (
    SYSTEMS,
    KubernetesOptions,
    SlurmOptions,
    System,
    TpuOptions,
    default_file,
    job_file,
)
from fbunet_jax.runs.files import create_once, naming
from fbunet_jax.user_files import expand


@dataclass(frozen=True)
class Arguments(TrainingArguments):
    """Write a job file for Slurm, a TPU VM or Kubernetes, which trains methods and folds there and resumes."""

    system: tyro.conf.Positional[System] = field(kw_only=True)
    """slurm: an array of jobs; tpu: a queued resource of Google Cloud; k8s: an indexed job of Kubernetes."""
    file: str = ""
    """File to write; fbunet-<config> with .sbatch, -tpu.sh or -k8s.yaml in the current folder by default."""
    setup: str = ""
    """Shell commands that make fbunet available there, such as "module load cuda" or "source ~/venv/bin/activate". With
    Slurm this program is called by its path if there are none."""
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    tpu: TpuOptions = field(default_factory=TpuOptions)
    k8s: KubernetesOptions = field(default_factory=KubernetesOptions)


_NEXT = {"slurm": "sbatch", "tpu": "bash", "k8s": "kubectl apply --filename"}


def command(options: Sequence[str], prog: str) -> int:
    """Write a job file, and say how it is submitted."""
    base = given_base(options)
    defaults = Arguments(settings=base, system=tyro.MISSING)
    arguments = tyro.cli(Arguments, args=options, default=defaults, prog=prog)
    commands = check_trainings(arguments, base)
    system = arguments.system
    groups = {name: getattr(arguments, name) for name in SYSTEMS}
    for name, group in groups.items():
        if name != system and group != type(group)():
            raise ConfigError(f"--{name}.… is an option of fbunet jobs {name}: leave it out for {system}.")
    file = expand(arguments.file) if arguments.file else default_file(system, commands)
    text = job_file(commands, system, groups[system], setup=arguments.setup, file=file)
    with naming(file):
        if not create_once(file, text):
            raise ConfigError(f"{file} exists already: remove it, or write to another one with --file.")
    count = len(commands.grid)
    print(f"Written: {file}, {count} training{'s' * (count > 1)}.\nNext: {_NEXT[system]} {file}")
    return 0
