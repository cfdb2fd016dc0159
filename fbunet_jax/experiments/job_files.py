"""Job files: trainings as an array of Slurm, on a TPU VM, or as an indexed job of Kubernetes."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import jinja2
import tyro

from fbunet_jax.errors import ConfigError
from fbunet_jax.experiments.commands import ALONE, PROGRAM, Commands

System = Literal["slurm", "tpu", "k8s"]
SYSTEMS: tuple[System, ...] = get_args(System)

_TEMPLATES = {"slurm": "slurm.sh.j2", "tpu": "tpu.sh.j2", "k8s": "k8s.yaml.j2"}
_SUFFIXES = {"slurm": ".sbatch", "tpu": "-tpu.sh", "k8s": "-k8s.yaml"}

# What is left as it is by a shell, by Slurm and in YAML.
_WORD = re.compile(r"[\w./:@%+=,-]*", re.ASCII)


@dataclass(frozen=True)
class SlurmOptions:
    """slurm: what each job of the array asks for."""

    partition: str = ""
    """Partition; the cluster's own by default."""
    account: str = ""
    """Account; your own by default."""
    constraint: str = ""
    """Features that the node must have."""
    time: str = "24:00:00"
    """Time limit of a job, after which it is queued again and resumes."""
    gpus: int = 1
    """GPUs; 0 for a training on the CPU."""
    cpus: int = 4
    """CPU cores."""
    memory: str = "16G"
    """Host memory."""
    at_once: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """At most N jobs at the same time; 0 for no limit."""
    grace: int = 120
    """Seconds before the time limit at which a job saves."""

    def __post_init__(self) -> None:
        _check("slurm", self, {"gpus": 0, "cpus": 1, "at_once": 0, "grace": 1}, ("time", "memory"))


@dataclass(frozen=True)
class TpuOptions:
    """tpu: the TPU VM, a queued resource of Google Cloud."""

    project: str = ""
    """Project of Google Cloud."""
    zone: str = ""
    """Zone, such as us-west4-a."""
    accelerator: str = "v5litepod-8"
    """Type of the TPU: one that has a single host."""
    runtime: str = "v2-alpha-tpuv5-lite"
    """Version of the software of the VM, which belongs to the type."""
    disk: str = ""
    """Disk with data and runs, projects/PROJECT/zones/ZONE/disks/NAME; it has a file system already."""
    folder: str = "/mnt/fbunet"
    """Where the disk is mounted, and where the trainings run."""
    spot: bool = True
    """Cheaper, and may be taken away."""

    def __post_init__(self) -> None:
        _check("tpu", self, {}, ("accelerator", "runtime", "folder"))


@dataclass(frozen=True)
class KubernetesOptions:
    """k8s: the pods, and the volumes with data and runs."""

    image: str = ""
    """Image of the container, in which fbunet and bash are installed."""
    namespace: str = ""
    """Namespace; that of kubectl by default."""
    claim: str = "fbunet-runs"
    """Claim of the volume for the runs, which all pods write to (ReadWriteMany)."""
    folder: str = "/work"
    """Where that volume is mounted, and where the trainings run."""
    data_claim: str = ""
    """Claim of the volume with the data, if that is another one."""
    data_folder: str = "/data"
    """Where that volume is mounted, read-only."""
    gpus: int = 1
    """NVIDIA GPUs of a pod; 0 for a training on the CPU."""
    cpus: int = 4
    """CPU cores of a pod."""
    memory: str = "16Gi"
    """Memory of a pod."""
    at_once: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """At most N pods at the same time; 0 for no limit."""
    grace: int = 120
    """Seconds for saving when a pod is evicted."""

    def __post_init__(self) -> None:
        least = {"gpus": 0, "cpus": 1, "at_once": 0, "grace": 1}
        _check("k8s", self, least, ("claim", "folder", "data_folder", "memory"))


def _check(system: str, options: Any, least: Mapping[str, int], needed: tuple[str, ...]) -> None:
    for field in fields(options):
        name, value = f"--{system}.{field.name.replace('_', '-')}", getattr(options, field.name)
        if field.name in least and not least[field.name] <= value < 2**31:
            raise ConfigError(f"{name} {value}: expected a number of at least {least[field.name]}.")
        if isinstance(value, str) and not _WORD.fullmatch(value):
            raise ConfigError(f"{name} {value!r}: expected a word of letters, digits and ./:@%+=,-_ only.")
        if field.name in needed and not value:
            raise ConfigError(f"{name} is empty: expected a word.")


def default_file(system: System, commands: Commands) -> Path:
    """Return the file in the current folder that a job is written to."""
    return Path(_name(commands) + _SUFFIXES[system])


def job_file(
    commands: Commands,
    system: System,
    options: SlurmOptions | TpuOptions | KubernetesOptions,
    *,
    setup: str = "",
    file: Path,
) -> str:
    """Return the content of a job file.

    Args:
      commands: for what is trained.
      system: whose job it is.
      options: of that system.
      setup: shell commands that make ``fbunet`` available; with Slurm, this program by its path if there are none.
      file: to which it will be written, for the reader.

    Raises:
      ConfigError: something is missing without which such a job does not work.
    """
    missing = {"tpu": ("project", "zone", "disk"), "k8s": ("image",)}.get(system, ())
    for name in missing:
        if not getattr(options, name):
            raise ConfigError(f"--{system}.{name} is missing, and has no default: see fbunet jobs --help.")
    if system == "tpu" and not setup:
        raise ConfigError("--setup is missing: the commands that install fbunet on a new TPU VM, if it is not there.")
    program = PROGRAM if system == "slurm" and not setup else ("fbunet",)
    own = {"--method": "$method", "--fold": "$fold", "--seed": "$seed", "--out": "$out"}
    variables = " ".join(f'{option} "{value}"' for option, value in own.items())
    values: dict[str, Any] = {
        **asdict(options),
        "name": _name(commands) if system == "slurm" else _distinct_name(commands),
        "title": commands.grid.config.name,
        "file": shlex.quote(file.name),
        "setup": setup.strip(),
        "places": [
            {**place._asdict(), "out": shlex.quote(str(commands.grid.run(place).path))} for place in commands.grid
        ],
        "train": f"{shlex.join(program)} train {variables} {shlex.join((*ALONE, *commands.shared_options()))}",
        "sweep": f"{shlex.join(program)} sweep {shlex.join(commands.sweep_options())}",
        "index": "JOB_COMPLETION_INDEX" if system == "k8s" else "SLURM_ARRAY_TASK_ID",
    }
    if isinstance(options, SlurmOptions):
        values |= {"folder": _in_slurm(Path.cwd()), "placement": _placement(options)}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fbunet_jax", "experiments/templates"),
        autoescape=False,  # no HTML: what goes into a file is a checked word, or quoted above
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["for_kubernetes"] = _for_kubernetes
    return environment.get_template(_TEMPLATES[system]).render(values)


def _placement(options: SlurmOptions) -> list[tuple[str, str]]:
    """Return the options of sbatch that choose nodes, as far as they are given."""
    gpus = f"gpu:{options.gpus}" if options.gpus else ""
    pairs = [
        *(("partition", options.partition), ("account", options.account), ("constraint", options.constraint)),
        *(("gres", gpus), ("cpus-per-task", str(options.cpus)), ("mem", options.memory)),
    ]
    return [(option, value) for option, value in pairs if value]


def _in_slurm(path: Path) -> str:
    """Return a path as a value in a comment of sbatch, which knows double quotes."""
    if '"' in str(path) or not str(path).isprintable():
        raise ConfigError(f"The folder {str(path)!r} cannot be named in a job file: rename it, or use another one.")
    return f'"{path}"'


def _for_kubernetes(text: str) -> str:
    """Return what Kubernetes makes `text` of: it replaces $(NAME) and $$ before the shell sees them."""
    return re.sub(r"\$+\(|\${2,}", lambda found: found.group().replace("$", "$$"), text)


def _name(commands: Commands) -> str:
    """Return a name for jobs, as Kubernetes and Google Cloud take it."""
    word = re.sub(r"[^a-z0-9]+", "-", commands.grid.config.name.lower()).strip("-")
    return f"fbunet-{word}"[:50].rstrip("-")


def _distinct_name(commands: Commands) -> str:
    """Return a name that other trainings of the configuration do not have: what has one name exists once there."""
    digest = hashlib.blake2b(json.dumps(commands.sweep_options()).encode(), digest_size=3)
    return f"{_name(commands)}-{digest.hexdigest()}"
