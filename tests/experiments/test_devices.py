"""Training on several devices in one process gives the results of one device."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from experiments import devices, metrics, programs
from experiments.checkpoints import Checkpoints
from experiments.devices import Layout
from experiments.errors import InputError
from experiments.grid import Grid
from experiments.task import Split, batches

from ..errors import exactly
from . import twenty_steps
from .small import Small
from .test_grid import ignore, small_config, without_seconds

once = functools.cache(twenty_steps.train)  # on one device, or on two


def test_runs_side_by_side_have_the_bits_of_runs_on_one_device(corpus_path, tmp_path):
    """Four devices train five runs, so the last group has one run and copies of it."""
    results = []
    for runs in (1, 4):
        config = small_config(corpus_path, rates=(0.1, 0.2, 0.3, 0.4, 0.5), seeds=1)
        config.mesh.runs = runs
        folder = tmp_path / str(runs)
        grid = Grid(Small(config), folder, metrics=folder / "metrics")
        records = grid.train("SpatialDropout1D", [], ignore)["runs"]
        results.append([without_seconds(record) for record in records])
        for record in records:
            rows = metrics.read(folder / "metrics" / f"SpatialDropout1D-{record['rate']}-0")
            assert [row["epoch_loss"] for row in rows] == record["train_loss"]
    assert results[0] == results[1]
    # They end after different numbers of epochs, so the first ones have waited for the others.
    assert len({record["epochs"] for record in results[0][:4]}) > 1


def test_free_devices_train_other_runs():
    for mesh, expected in (
        ({}, (6, 1, 1, 1)),  # there are 6 runs
        ({"data": 2}, (4, 2, 1, 1)),
        ({"data": 2, "fsdp": 2, "runs": 1}, (1, 2, 2, 1)),
        ({"fsdp": 3}, (2, 1, 3, 1)),
        ({"data": -1}, (1, 8, 1, 1)),
        ({"model": -1, "runs": 2}, (2, 1, 1, 4)),
        ({"model": 4, "axis_type": "explicit"}, (1, 1, 1, 4)),
        ({"axis_type": "explicit"}, (6, 1, 1, 1)),
    ):
        layout = Layout(devices.defaults(**mesh), 24, 6)
        assert tuple(layout.mesh.shape.values()) == expected
        assert layout.runs == expected[0]


def test_a_report_describes_the_devices_in_use():
    assert devices.describe(devices.defaults(runs=1), 6) == "cpu (cpu)"
    assert devices.describe(devices.defaults(), 6) == "6 x cpu (cpu) with 6 runs"
    mesh = devices.defaults(data=2)
    assert devices.describe(mesh, 6) == "8 x cpu (cpu) with 4 runs x 2 data"


SPLITS = [
    ("batch norm", {"data": 2, "fsdp": 2, "axis_type": "explicit"}),
    ("language", {"fsdp": 2, "model": 2, "runs": 1}),
]
SLOW_SPLITS = [
    ("batch norm", {"data": 2, "model": 2}),
    ("tagging", {"data": 2, "fsdp": 2, "axis_type": "explicit"}),
    ("language", {"runs": 8}),
    ("language", {"data": 2, "fsdp": 2, "model": 2}),
    ("forecasting", {"data": 2, "fsdp": 2, "model": 2, "axis_type": "explicit"}),
    ("convolutions", {"data": 4, "fsdp": 2}),
    ("convolutions", {"data": 2, "fsdp": 2, "axis_type": "explicit"}),
]


@pytest.mark.parametrize(
    ("name", "mesh"),
    [*SPLITS, *(pytest.param(*split, marks=pytest.mark.slow) for split in SLOW_SPLITS)],
    ids=str,
)
def test_twenty_steps_on_a_mesh_equal_those_on_one_device(name, mesh):
    state, losses, scores = twenty_steps.train(name, **mesh)
    first_state, first_losses, first_scores = once(name, runs=1)
    np.testing.assert_allclose(losses[:1], first_losses, rtol=1e-6)
    np.testing.assert_allclose(scores[:1], first_scores, rtol=1e-6)
    if name != "language":  # the gradient of its keys' bias is 0, and Adam scales it up
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[:1], b, rtol=1e-5, atol=1e-6),
            jax.device_get(state.variables),
            jax.device_get(first_state.variables),
        )
    used = {device for leaf in jax.tree.leaves(state) for device in leaf.sharding.device_set}
    of_a_run = [size for axis, size in mesh.items() if axis in devices.AXES]
    assert len(used) == len(losses) * np.prod(of_a_run)


def test_parameters_and_the_optimizer_s_state_are_spread_over_fsdp_and_model():
    layout = Layout(devices.defaults(fsdp=2, model=2, runs=1), 8, 1)
    for shape, spec in (
        ((6, 4), ("fsdp", "model")),
        ((6, 5), ("model", None)),  # the last axis does not divide
        ((3, 4, 8), (None, "fsdp", "model")),
        ((4,), ("model",)),
        ((5, 3), (None, None)),
        ((), ()),
    ):
        assert tuple(layout._spec(shape)) == spec
    task, regularizer = twenty_steps.make_task("language", fsdp=2, model=2, runs=1)
    builder = programs.Builder(task)
    state, _ = builder.start(regularizer, [programs.Run(0.25, 0)])
    adam = state.opt_state[0]
    for tree in (state.params, adam.mu, adam.nu):
        table = tree["Embed_0"]["embedding"]
        assert table.sharding.spec == P("runs", "fsdp", "model")
        assert table.addressable_shards[0].data.size == table.size // 4


def test_batches_are_spread_over_data_and_fsdp_and_evaluation_is_padded():
    layout = Layout(devices.defaults(data=2, fsdp=2, runs=2), 8, 6)
    targets = np.arange(10)
    data = Split((targets[:, None],), targets, targets >= 0)
    indices = np.random.default_rng(0).permutation(10)[:8].reshape(2, 1, 4)
    other = data._replace(targets=-targets)
    put = layout.put_batches([data, other], indices)
    np.testing.assert_array_equal(put.targets, indices * np.array([1, -1])[:, None, None])
    np.testing.assert_array_equal(put.inputs[0], indices[..., None])
    assert put.targets.addressable_shards[0].data.shape == (1, 1, 1)
    evaluation = batches(data, 5, layout.shards)
    assert evaluation.targets.shape == (2, 8)
    assert evaluation.counted.sum() == 10
    on_devices = layout.put_evaluation(
        [evaluation, evaluation._replace(targets=-evaluation.targets)]
    )
    np.testing.assert_array_equal(on_devices.targets[1], -evaluation.targets)
    assert on_devices.targets.addressable_shards[0].data.shape == (1, 2, 2)


def test_a_checkpoint_of_one_device_continues_on_two(tmp_path, corpus_path):
    """The results are not all of the same bits, because sums have another order."""

    def train(data, resume, check=ignore):
        config = small_config(corpus_path, rates=(0.2,), seeds=1, checkpoint_every=1)
        config.mesh.update({"runs": 1, "data": data})
        grid = Grid(Small(config), tmp_path / "checkpoints", resume=resume, check=check)
        [record] = grid.train("SpatialDropout1D", [], ignore)["runs"]
        return record

    epochs = []

    def stop_at_the_third(work):
        epochs.append(work)
        if len(epochs) == 4:  # compiling is the first
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(1, False, stop_at_the_third)
    restored = []
    with pytest.MonkeyPatch.context() as patch:

        def restore(self, arrays, progress):
            found = original(self, arrays, progress)
            restored.append(found)
            return found

        original = Checkpoints.restore
        patch.setattr(Checkpoints, "restore", restore)
        continued = train(2, True)
    [((state, _), progress)] = restored
    assert progress.step > 0
    leaf = jax.tree.leaves(state.params)[0]
    assert len(leaf.sharding.device_set) == 2
    whole = train(1, False)
    np.testing.assert_allclose(continued["train_loss"], whole["train_loss"], rtol=1e-5)
    assert continued["validation_curve"] == whole["validation_curve"]


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"data": 0}, "config.mesh.data must be at least 1: got 0"),
        ({"runs": -1}, "config.mesh.runs must be at least 0: got -1"),
        ({"model": 1.5}, "config.mesh.model must be a whole number: got 1.5"),
        (
            {"data": -1, "model": -1},
            "only one axis of config.mesh may be -1: got data and model",
        ),
        (
            {"axis_type": "manual"},
            "config.mesh.axis_type must be one of auto, explicit: got 'manual'",
        ),
        (
            {"data": 4, "fsdp": 4},
            "config.mesh needs at least 16 devices (data=4, fsdp=4): there are 8; on a CPU, "
            "JAX_NUM_CPU_DEVICES=16 makes 16",
        ),
        (
            {"data": -1, "fsdp": 3},
            "config.mesh must divide the devices: got runs=0, data=-1, fsdp=3, model=1 for 8",
        ),
        (
            {"data": 2, "fsdp": 3},
            "config.mesh.data * config.mesh.fsdp must divide the batch: got 2 * 3 for 8 examples",
        ),
        (
            {"data": 2, "runs": 2, "axis_type": "explicit"},
            "config.mesh.runs must be 0 or 1 if a run has several devices and "
            "config.mesh.axis_type=explicit: got runs=2, data=2, fsdp=1, model=1",
        ),
    ],
    ids=str,
)
def test_bad_meshes_get_one_sentence(mesh, message):
    config = devices.defaults()
    with config.ignore_type():
        config.update(mesh)
    with pytest.raises(InputError, match=exactly(message)):  # noqa: PT012
        devices.check(config)
        Layout(config, 8, 6)
