"""Describes the chips of TPUs that are not at hand, for the compiler in the package libtpu."""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from ..errors import InputError

_ENVIRONMENT = {  # otherwise libtpu asks a metadata server, which only a TPU's host has
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_TOPOLOGY = re.compile(r"(v[2-7]|tpu7)[a-z]*:\d+x\d+(x\d+)?")  # libtpu knows which exist
_NAMES = (
    "a TPU topology needs a name such as v5e:4x4, v5e:16x16, v5p:2x2x4, v5p:8x16x16 or v6e:16x16"
)


class Peak(NamedTuple):
    """The peak figures of a chip, per second, as its maker publishes them."""

    bytes: float
    """Of HBM."""
    cycles: float

    @property
    def bytes_a_cycle(self) -> float:
        """The bytes that HBM can deliver in a cycle."""
        return self.bytes / self.cycles


PEAKS = {
    "v4": Peak(1228e9, 1.05e9),
    "v5e": Peak(819e9, 1.5e9),
    "v5p": Peak(2765e9, 1.75e9),
    "v6e": Peak(1640e9, 1.75e9),
}


def peak(topology: str) -> Peak | None:
    """Returns the peak figures of the chips of a topology such as "v5e:4x4", if they are known."""
    return PEAKS.get(topology.partition(":")[0])


def mesh(topology: str, schedules: Path | None = None) -> Mesh:
    """Returns all chips of a topology such as "v5e:4x4" along one axis, "data"."""
    return Mesh(np.array(chips(topology, schedules)), ("data",))


def chips(topology: str, schedules: Path | None = None) -> list[Any]:
    """Returns all chips of a topology. No TPU is needed, but the package libtpu.

    The compiler writes the schedules of all programs into a folder, if this is the first call of
    the process.
    """
    if not _TOPOLOGY.fullmatch(topology):
        raise InputError(f"{_NAMES}: got {topology!r}")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "compiling for TPUs needs the package libtpu: pip install -e '.[experiments,tpu]'"
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if schedules is not None:
        arguments = [os.environ.get("LIBTPU_INIT_ARGS", ""), *_dump_to(schedules)]
        os.environ["LIBTPU_INIT_ARGS"] = " ".join(arguments).strip()
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # the plug-in raises its own types of errors
        if "lockfile" in str(error):
            raise InputError(
                "another process is using the TPU's compiler: wait until it has ended"
            ) from error
        why = str(error).strip().splitlines()[-1]
        raise InputError(f"{_NAMES}: got {topology!r} ({why})") from error
    return list(found.devices)


def _dump_to(folder: Path) -> list[str]:
    return [
        f"--xla_jf_dump_to={folder}",
        "--xla_jf_dump_llo_text=true",
        "--xla_jf_dump_llo_pass_label_regex=^final_bundles$",  # all passes would fill the disk
    ]
