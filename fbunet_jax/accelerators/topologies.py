"""JAX devices that are not here: descriptions for which XLA compiles, and which can run nothing.

The process needs the environment of `compiling.compiler_environment` when it imports JAX.
"""

import jax

from fbunet_jax.accelerators.devices import Target, gpu_description
from fbunet_jax.errors import ConfigError, RunError


def find_devices(target: Target) -> list[jax.Device]:
    """Return the devices of a target, those of a host beside each other.

    Raises:
      ConfigError: there is no such slice.
      RunError: this JAX compiles for no absent devices, or not in the way that is known here.
    """
    try:
        from jax.experimental import topologies

        if target.device.is_gpu:
            hosts, gpus = target.shape
            description = topologies.get_topology_desc(
                platform="cuda",
                topology_name="",
                target_config=gpu_description(target.device),
                topology=f"1x{hosts}x{gpus}",
            )
        else:
            shape = "x".join(map(str, target.shape))
            # the two cores of a v4 chip are one device, as on a real slice
            cores = {"chip_config_name": "megacore"} if target.name == "v4" else {}
            width, height, *_ = target.shape
            description = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{target.name}:{shape}",
                chips_per_host_bounds=(min(width, 2), min(height, 2), 1),
                **cores,
            )
    except (ImportError, AttributeError, TypeError) as error:
        raise RunError(
            f"JAX {jax.__version__} describes devices that are not here in another way than JAX 0.10 to 0.12 "
            f"({type(error).__name__}: {error}). Install one of these."
        ) from error
    except Exception as error:
        message = str(error)
        if "lockfile" in message or "already in use" in message:
            raise RunError(
                f"Another process uses libtpu and has locked it: {_first_line(message)} Wait until it ends, or, if "
                "none is left, remove the file."
            ) from error
        shapes = (
            "TPU slices have the shapes that Google Cloud rents, such as 2x2, 4x4, 8x8 and 16x16 of v5e and v6e, or "
            "2x2x1, 2x2x2 and 4x4x4 of v4 and v5p."
        )
        if target.device.is_gpu:
            shapes = "Fewer GPUs may do."
        raise ConfigError(
            f"--for {target.text}: the compiler knows no such devices ({_first_line(message)}). {shapes}"
        ) from error
    return sorted(description.devices, key=lambda device: (device.process_index, device.id))


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0].rstrip(".") if message.strip() else "it says no more"
