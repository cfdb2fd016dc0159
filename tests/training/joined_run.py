"""`mapped_run` in one of several processes; each writes into a folder of its own.

usage: joined_run.py PORT PROCESSES PROCESS DEVICES FOLDER float32|float64, with DEVICES simulated in each process
"""

import sys
from pathlib import Path

import jax

if __name__ == "__main__":
    port, processes, process, devices, folder, precision = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process), cluster_detection_method="deactivate")
    sys.path.insert(0, str(Path(__file__).parent))
    import mapped_run

    place = Path(folder) / process
    place.mkdir()
    mapped_run.main(place, precision, [str(int(processes) * int(devices))])
