"""What JAX's experimental descriptions of absent devices may answer, each a sentence."""

import jax
import pytest
from jax.experimental import topologies

from fbunet_jax.accelerators.devices import parse_target
from fbunet_jax.accelerators.topologies import find_devices
from fbunet_jax.errors import ConfigError, RunError


@pytest.mark.parametrize(
    ("target", "raised", "error", "part"),
    [
        ("v5e:2x2", TypeError("unexpected keyword"), RunError, f"JAX {jax.__version__} describes devices"),
        ("h100", AttributeError("no such function"), RunError, "Install one of these"),
        ("v5e:2x2", RuntimeError("The TPU is already in use by pid 7, see /tmp/libtpu_lockfile."), RunError, "locked"),
        ("v5e:2x2", RuntimeError("INVALID_ARGUMENT: no such layout"), ConfigError, "such as 2x2, 4x4"),
        ("h100:99999", RuntimeError("too many"), ConfigError, "Fewer GPUs may do."),
    ],
)
def test_a_description_that_fails_is_a_sentence(monkeypatch, target, raised, error, part):
    def fail(*arguments, **options):
        raise raised

    monkeypatch.setattr(topologies, "get_topology_desc", fail)
    with pytest.raises(error) as found:
        find_devices(parse_target(target))
    assert part in str(found.value)
