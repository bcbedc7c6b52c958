import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import here
from experiments.benchmarks.cases import DEPTH, Case, copy, layer_cases, network_cases, scan_loss
from experiments.benchmarks.libraries import CORE, FLAX, OURS, SPATIAL, layers
from experiments.benchmarks.results import Results


def test_a_layer_has_times():
    case = next(iter(layer_cases()))
    (record,) = here.measure(case, 0)
    assert (record.section, record.row, record.quantity) == ("layers", case.row, here.TIME)
    assert record.baseline == "copy"
    assert set(record.values) == set(case.programs)
    assert all(low <= record.values[n] <= high for n, (low, high) in record.spread.items())


def test_a_network_has_memory_as_well():
    losses = {
        "no dropout": scan_loss(lambda key, x: x),
        OURS: scan_loss(layers(SPATIAL, 4, CORE)[OURS]),
    }
    case = Case(
        section="networks",
        row="small",
        baseline="no dropout",
        programs={name: jax.grad(f, argnums=(1, 2)) for name, f in losses.items()},
        shapes=(
            jax.ShapeDtypeStruct((2, 3, 3, 8), jnp.float32),
            jax.ShapeDtypeStruct((4, 8, 8), jnp.float32),
        ),
        backward=losses.__getitem__,
    )
    records = {record.quantity: record for record in here.measure(case, 0)}
    assert list(records) == [here.TIME, here.SCRATCH, here.KEPT]
    assert records[here.SCRATCH].values[OURS] > 0
    assert records[here.KEPT].values == {"no dropout": 0, OURS: 4 * 2 * 8}


@pytest.mark.parametrize("case", list(network_cases()), ids=lambda case: case.row)
def test_what_a_scan_stacks_for_backward(case):
    """We keep masks in noise shape, or keys. Flax keeps masks in x's shape."""
    if not case.row.startswith("scan"):
        return
    kept = {name: here.residual_bytes(case.backward(name), case.shapes) for name in case.programs}
    batch, height, width, channels = case.shapes[0].shape
    noise = batch * channels if "spatial" in case.row else 8
    assert kept[OURS] - kept["no dropout"] == DEPTH * noise
    assert kept[FLAX] - kept["no dropout"] >= DEPTH * batch * height * width * channels


def test_only_large_layers_are_measured_again_with_pages_kept(monkeypatch):
    large = {case.row for case in layer_cases() if here.is_large(case)}
    assert "spatial f32[32, 64, 64, 128] forward" in large
    assert "spatial bf16[32, 64, 64, 128] forward" in large
    assert "spatial f32[8, 3, 224, 224] forward" not in large
    assert not any(here.is_large(case) for case in network_cases())
    calls = []

    def run(command, env, check):
        calls.append((command, env))
        folder = next(c for c in command if c.startswith("--workdir=")).partition("=")[2]
        Results.start("cpu", "a device").save(here.Path(folder) / "cpu.json")

    monkeypatch.setattr(here.subprocess, "run", run)
    assert here.measure_pages_kept("layers", 1.0) == []
    ((command, env),) = calls
    assert "--pages_kept" in command
    assert "--only=layers" in command
    assert env["MALLOC_MMAP_MAX_"] == "0"


def test_nbytes_of_arrays_and_keys():
    assert here.nbytes(jax.ShapeDtypeStruct((3, 4), jnp.bfloat16)) == 24
    assert here.nbytes(jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 5))) == 40
    assert copy(None, jnp.ones(3)).sum() == 6
