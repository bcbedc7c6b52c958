"""Restores a checkpoint of which one of two processes cannot read its part.

python -m tests.experiments.damaged_part FOLDER COORDINATOR PROCESS
"""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from experiments import processes
from experiments.checkpoints import Checkpoints
from experiments.interrupt import leave
from experiments.runs import Progress, Run


def make_arrays(step):
    """Returns an array that begins with the step, half of it on each process."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    values = step + np.sqrt(np.arange(20_000) % 10_000, dtype=np.float32)  # hard to compress
    return {"a": jax.make_array_from_callback(values.shape, sharding, values.__getitem__)}


def main(folder, coordinator, process):
    """Saves steps 5 and 7, damages a part of step 7, and prints what is restored."""
    jax.config.update("jax_num_cpu_devices", 1)
    processes.connect(processes.Cluster(coordinator, 2, int(process), 60))
    checkpoints = Checkpoints(Path(folder), 1)
    for step in (5, 7):
        checkpoints.save(make_arrays(step), Progress("none", [Run(0.0, 0)], step))
    checkpoints.close()
    if process == "1":
        for path in Path(folder).glob("7/arrays/ocdbt.process_1/d/*"):
            path.write_bytes(path.read_bytes()[:10])
    processes.meet("the part is damaged")
    checkpoints = Checkpoints(Path(folder), 1)
    arrays, progress = checkpoints.restore(make_arrays(0), Progress("none", [Run(0.0, 0)]))
    print(progress.step, arrays["a"].addressable_data(0)[0])
    checkpoints.save(make_arrays(9), Progress("none", [Run(0.0, 0)], 9))
    checkpoints.close()
    processes.meet("all is saved")


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave(0)
