"""Which processes belong together is taken from the options, or from what has started them."""

import re

import pytest

from fbunet_jax.cli import distributed
from fbunet_jax.cli.distributed import Distributed
from fbunet_jax.errors import ConfigError

SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "node[1-2]"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*SLURM, "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_alone_there_is_nothing_to_join():
    assert distributed._arguments(Distributed()) == {}


def test_a_shell_in_an_allocation_of_many_tasks_does_not_wait_for_them(monkeypatch):
    set_all(monkeypatch, **SLURM, SLURM_NTASKS="4", SLURM_STEP_NUM_TASKS="1")
    assert distributed._arguments(Distributed()) == {}
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")  # in the script of a job
    assert distributed._arguments(Distributed()) == {}


def test_the_tasks_of_a_slurm_step_join_as_jax_detects_them(monkeypatch):
    from jax._src.clusters.slurm_cluster import SlurmCluster

    set_all(monkeypatch, **SLURM, SLURM_NTASKS="8", SLURM_STEP_NUM_TASKS="2")
    assert distributed._arguments(Distributed()) == {"num_processes": 2, "cluster_detection_method": SlurmCluster.name}
    assert SlurmCluster.is_env_present()
    assert distributed._arguments(Distributed(num_processes=1)) == {}


def test_open_mpi_is_joined_where_it_says_enough(monkeypatch):
    from jax._src.clusters.ompi_cluster import OmpiCluster

    set_all(monkeypatch, OMPI_COMM_WORLD_SIZE="1")
    assert distributed._arguments(Distributed()) == {}
    set_all(monkeypatch, OMPI_COMM_WORLD_SIZE="2")
    with pytest.raises(ConfigError, match=r"started 2 processes.*--distributed\.process-id \$OMPI_COMM_WORLD_RANK"):
        distributed._arguments(Distributed())
    set_all(monkeypatch, OMPI_MCA_orte_hnp_uri="1531576320.0;tcp://10.96.0.1:34911")
    assert distributed._arguments(Distributed()) == {"cluster_detection_method": OmpiCluster.name}


def test_open_mpi_comes_before_slurm_whose_variables_its_own_daemons_may_have(monkeypatch):
    set_all(monkeypatch, **SLURM, SLURM_STEP_NUM_TASKS="3", OMPI_COMM_WORLD_SIZE="8", OMPI_COMM_WORLD_RANK="5")
    set_all(monkeypatch, OMPI_MCA_orte_hnp_uri="1531576320.0;tcp://10.96.0.1:34911")
    assert distributed._arguments(Distributed()) == {"cluster_detection_method": "ompi"}
    assert distributed.launched() == (5, 8)


def test_options_come_before_what_a_launcher_says(monkeypatch):
    set_all(monkeypatch, **SLURM, SLURM_STEP_NUM_TASKS="2")
    arguments = distributed._arguments(Distributed("node1:4321", 3, 2))
    assert arguments == {
        **{"coordinator_address": "node1:4321", "num_processes": 3, "process_id": 2},
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Distributed("node1:4321", 2), "expected all three"),
        (Distributed(process_id=0), "expected all three"),
        (Distributed("node1:4321", 2, 2), "--distributed.process-id 2: expected 0 to 1"),
        (Distributed("node1", 2, 0), "--distributed.coordinator-address node1: expected HOST:PORT"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        distributed._arguments(options)


def test_errors_of_lost_connections_are_told_from_others():
    gloo = "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    assert distributed._is_loss(ValueError(gloo))
    wrapped = OSError("a checkpoint could not be written")
    wrapped.__cause__ = ValueError(gloo)
    assert distributed._is_loss(wrapped)
    assert not distributed._is_loss(ValueError("the loss is not finite"))
