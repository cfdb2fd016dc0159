"""A Slurm of one node on this machine, on the loopback interface, for as long as it is needed.

    python tests/experiments/loopback_slurm.py

starts one, says how to reach it, and stops it at Ctrl-C or SIGTERM. It needs Debian's packages slurmctld, slurmd,
slurm-client and munge, or the same programs from elsewhere, but no cgroups, systemd or database.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")

CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
# a requeued job waits as long as a credential is valid: 120 seconds by default
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=2000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def find(name):
    """Return the path of a program, also of those that only root has on its path; None without it."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin:/usr/local/sbin")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until(holds, seconds, what):
    """Wait until something holds, and return it; other programs do it, so it is looked at again and again."""
    end = time.monotonic() + seconds
    while not (result := holds()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what} not within {seconds} seconds")
        time.sleep(0.25)
    return result


@contextlib.contextmanager
def loopback_slurm():
    """Run munged, slurmctld and slurmd; yield the folder with slurm.conf and their logs."""
    with contextlib.ExitStack() as stack:
        # not below pytest's folder: the name of a socket may have 107 bytes only
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        configuration = folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                folder=folder,
                host=socket.gethostname().split(".")[0],
                user=getpass.getuser(),
                cores=os.cpu_count(),
                controller_port=free_port(),
                node_port=free_port(),
            )
        )
        environment = os.environ | {"SLURM_CONF": str(configuration)}

        def start(name, *options):
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen([find(name), *options], stdout=log, stderr=log, env=environment)
            stack.callback(process.wait)
            stack.callback(process.terminate)

        files = [f"--{name}-file={folder}/munged.{name}" for name in ("pid", "seed")]
        socket_file = folder / "munge.socket"
        start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket_file}", *files)
        until(socket_file.exists, 20, "the socket of munged")
        start("slurmctld", "-D", "-c")
        start("slurmd", "-D")
        sinfo = [find("sinfo"), "--noheader", "--format=%T"]
        idle = lambda: subprocess.run(sinfo, capture_output=True, text=True, env=environment).stdout == "idle\n"  # noqa: E731
        until(idle, 60, "an idle node")
        yield folder


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # also in the background of a script, where Ctrl-C is ignored
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), loopback_slurm() as place:
        print(f"export SLURM_CONF={place}/slurm.conf", flush=True)
        signal.pause()
