import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from experiments.benchmarks import tpu
from experiments.benchmarks.cases import Case, copy, layer_cases, network_cases
from experiments.benchmarks.libraries import FAST_KERNEL, OURS_FAST
from experiments.tpu import bundles, topologies

ON_ALL = Mesh(np.array(jax.devices()), ("data",))
ROW = Case(
    "layers",
    "a row",
    "copy",
    {"copy": copy, "Flax again": copy},
    (jax.ShapeDtypeStruct((2, 8), jnp.float32),),
    kernels={"kernel": copy},
)


def measured(case, peak, folder):
    target = tpu.Target(ON_ALL, peak, folder)
    return {record.quantity: record for record in tpu.measure(case, target)}


def test_kernels_are_compiled_for_one_chip(monkeypatch, tmp_path):
    chips = {}

    def compiled(f, shapes, mesh):
        program, seconds = original(f, shapes, mesh)
        chips[mesh.size] = program.memory_analysis().output_size_in_bytes
        return program, seconds

    original = tpu.compiled
    monkeypatch.setattr(tpu, "compiled", compiled)
    found = measured(ROW, None, tmp_path)
    assert chips == {len(jax.devices()): 2 * 8 * 4, 1: 2 * 8 * 4}  # each has the row's batch
    assert found[tpu.CYCLES].values.keys() == {"copy"}  # kernels have no estimates
    assert list(found[tpu.SCRATCH].values) == ["kernel", "copy"]


def test_a_kernel_as_the_baseline_has_a_schedule_and_no_estimate(monkeypatch, tmp_path):
    row = Case("layers", "a row", "kernel", {}, ROW.shapes, kernels=ROW.kernels)
    peak = topologies.Peak(bytes=8.0, cycles=4.0)
    monkeypatch.setattr(tpu.schedule, "counts", lambda folder: {"multiply": bundles.Count(5, 0)})
    found = measured(row, peak, tmp_path)
    assert tpu.CYCLES not in found
    assert found[tpu.SCHEDULE].values.keys() == {"kernel", tpu.FLOOR}
    assert found[tpu.SCHEDULE].values[tpu.FLOOR] == 2 * (2 * 8 * 4) / 2  # reads x, writes y


@pytest.mark.parametrize("rows", [layer_cases, network_cases])
def test_rows_with_a_fast_key_have_it_as_a_kernel(rows):
    for case in rows():
        assert case.kernels.get(FAST_KERNEL) == case.programs.get(OURS_FAST)
        assert (FAST_KERNEL in case.kernels) == (OURS_FAST in case.programs)
    assert FAST_KERNEL in next(case for case in rows() if "element-wise" in case.row).kernels
