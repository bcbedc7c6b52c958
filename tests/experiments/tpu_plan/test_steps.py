from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import decoder, image_classification, pos_tagging, resnet50
from experiments import tasks
from experiments.errors import InputError
from experiments.task import Split
from experiments.tasks import TASKS
from experiments.tpu_plan import steps
from experiments.tpu_plan.steps import Arm
from flax_spatialdrop import linen

PLANNED = {"resnet50": resnet50.get_config, "decoder": decoder.get_config}


def problem_and_batch(name, arm):
    config = PLANNED[name]("smoke")
    if name == "resnet50":
        config.blocks = (1, 1)  # compiles faster
    problem = steps.make_problem(config, arm, 4)
    rng = np.random.default_rng(0)

    def fill(shape):
        if shape.dtype == bool:
            return jnp.ones(shape.shape, bool)
        if shape.dtype == jnp.int32:
            return jnp.asarray(rng.integers(0, 10, shape.shape), jnp.int32)
        return jnp.asarray(rng.normal(size=shape.shape), shape.dtype)

    return problem, Split(*jax.tree.map(fill, tuple(problem.batch)))


@pytest.mark.parametrize("name", PLANNED)
def test_a_planned_network_trains_with_all_its_dropout(name):
    regularizer = {"resnet50": "both", "decoder": "all"}[name]
    problem, batch = problem_and_batch(name, Arm(regularizer))
    state = jax.jit(problem.first_state)()
    step = jax.jit(problem.make_step())
    first, again, second = (
        step(state, 0.5, batch, jax.random.key(seed))[1].loss for seed in (1, 1, 2)
    )
    assert first == again
    assert first != second  # the masks of two steps differ
    losses = []
    for seed in range(3, 9):
        state, measured = step(state, 0.1, batch, jax.random.key(seed))
        losses.append(float(measured.loss))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("resnet50 none", {}),
        ("resnet50 DropBlock", {"DropBlock": 2}),
        ("resnet50 stochastic depth", {"DropPath": 2}),
        ("resnet50 both", {"DropBlock": 2, "DropPath": 2}),
        ("decoder none", {}),
        ("decoder residual", {"Dropout": 2}),
        ("decoder attention", {"attention weights": 1}),
        ("decoder embedding", {"Dropout": 1}),
        ("decoder all", {"Dropout": 3, "attention weights": 1}),
    ],
)
def test_where_a_planned_network_drops(name, modules):
    task, _, regularizer = name.partition(" ")
    problem, _ = problem_and_batch(task, Arm(regularizer))
    rngs = {"dropout": jax.random.key(0)}
    inputs = problem.batch.inputs
    found = linen.summarize(problem.model, *inputs, 0.1, deterministic=False, rngs=rngs).sites
    assert Counter(site.module for site in found if site.active) == modules
    if regularizer in ("stochastic depth", "both"):
        rates = sorted(site.rates[0] for site in found if site.module == "DropPath")
        np.testing.assert_allclose(rates, [0.05, 0.1], rtol=1e-6)


@pytest.mark.parametrize("name", PLANNED)
def test_flax_s_own_layers_take_the_same_places(name):
    regularizer = {"resnet50": "both", "decoder": "all"}[name]
    problem, batch = problem_and_batch(name, Arm(regularizer, flax=True))
    rngs = {"dropout": jax.random.key(0)}
    inputs = problem.batch.inputs
    found = linen.summarize(problem.model, *inputs, 0.1, deterministic=False, rngs=rngs).sites
    count = {"resnet50": 2 + 2, "decoder": 3}[name]
    assert Counter(site.module for site in found if site.active) == {"flax.linen.Dropout": count}
    step = problem.make_step()
    state = jax.eval_shape(problem.first_state)
    new, _ = jax.eval_shape(
        lambda *rest: step(rest[0], 0.1, *rest[1:]), state, batch, rngs["dropout"]
    )
    assert new == state


def test_flax_s_layer_replaces_dropout_and_keeps_its_options():
    x = jnp.ones((4, 8))

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return linen.Dropout(0.5, broadcast_dims=(0,), deterministic=False)(x)

    called = []
    original = nn.Dropout.__call__

    def spy(self, *args, **kwargs):
        called.append(self.rate)
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Dropout, "__call__", spy)
        with steps.flax_dropout():
            y = Net().apply({}, x, rngs={"dropout": jax.random.key(0)})
    assert called == [0.5]
    assert {0.0, 2.0} == set(np.unique(y))
    assert (y == y[:1]).all()
    assert y.shape == x.shape


def test_the_planner_uses_the_trainer_s_step(corpus_path, monkeypatch):
    config = pos_tagging.get_config("smoke")
    config.data.update({"path": str(corpus_path), "train_sentences": 0, "test_sentences": 0})
    mesh = steps.make_mesh(config, jax.devices()[:2])
    called = []
    original = steps.train.make_step
    monkeypatch.setattr(
        steps.train, "make_step", lambda *args: called.append(args) or original(*args)
    )
    for arm in (Arm("SpatialDropout1D"), Arm("Dropout", flax=True)):
        step = steps.plan(config, arm, mesh, 6)
        state, loss = jax.eval_shape(step.run, *step.arguments)
        assert jax.tree.structure(state) == jax.tree.structure(step.arguments[0])
        assert loss.shape == ()
    assert len(called) == 2
    config.optimizer.warmup_steps = 7  # more than config.epochs
    steps.plan(config, Arm("none"), mesh, 6)
    batch = step.arguments[-2]
    assert {array.shape[0] for array in jax.tree.leaves(batch)} == {6}
    whole = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(batch))
    assert step.bytes_a_chip()["batch"] == whole / 2  # two chips


def test_what_is_compiled_and_what_it_is_compared_to():
    config = decoder.get_config()
    found = {arm.name: steps.compared_to(config, arm) for arm in steps.arms(config)}
    assert list(found) == [*config.regularizers, "all with fast_key", "Flax none", "Flax all"]
    assert found["all with fast_key"] == Arm("none")
    assert found["none"] is found["Flax none"] is None
    assert found["attention"] == Arm("none")
    assert found["Flax all"] == Arm("none", flax=True)
    config = resnet50.get_config()
    assert steps.compared_to(config, Arm("both", flax=True)) == Arm("none")
    config = pos_tagging.get_config()
    assert steps.arms(config)[-1] == Arm("Dropout", flax=True)
    config = image_classification.get_config("smoke")
    assert steps.arms(config) == list(map(Arm, config.regularizers))  # Flax has no such layers


def test_an_arm_with_fast_keys_draws_all_its_masks_from_them(monkeypatch):
    config, called = decoder.get_config("smoke"), []
    config.mesh.fsdp = 2
    mesh = steps.make_mesh(config, jax.devices()[:2])
    original = steps.fast_key
    monkeypatch.setattr(steps, "fast_key", lambda key: called.append(key) or original(key))
    for arm in (Arm("all"), Arm("all", fast=True)):
        step = steps.plan(config, arm, mesh, 2)
        state, _ = jax.eval_shape(step.run, *step.arguments)
        assert jax.tree.structure(state) == jax.tree.structure(step.arguments[0])
    assert len(called) == 1


def test_parameters_and_batch_are_divided_as_in_training():
    config = decoder.get_config("smoke")
    config.mesh.fsdp = 2
    mesh = steps.make_mesh(config, jax.devices()[:4])
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "model": 1}
    state, *_, batch, key = steps.plan(config, Arm("all"), mesh, 8).arguments
    assert state.params["Embed_0"]["embedding"].sharding.spec == PartitionSpec("fsdp", None)
    assert batch.targets.sharding.shard_shape(batch.targets.shape) == (2, 32)
    assert key.sharding.is_fully_replicated


def test_the_mesh_of_a_config():
    config = decoder.get_config("smoke")
    assert steps.mesh_sizes(config, 256) == (16, 16, 1)
    with pytest.raises(InputError) as error:
        steps.mesh_sizes(config, 24)
    assert str(error.value) == (
        "config.mesh.fsdp * config.mesh.model must divide the chips: got 16 * 1 for 24 chips"
    )
    with pytest.raises(InputError) as error:
        steps.check_batch(config, 100, 16)
    assert str(error.value) == (
        "the chips must share the batch equally: got 100 examples for 16 parts "
        "(config.mesh.data * config.mesh.fsdp); --batch_a_chip sets it for each chip"
    )


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        (
            "task",
            "chess",
            f"config.task must be one of {', '.join(TASKS)}, resnet50, decoder: got 'chess'",
        ),
        (
            "regularizers",
            ("all", "heads"),
            "each of config.regularizers must be one of none, residual, attention, embedding, "
            "all: got 'heads'",
        ),
        ("rate", 2, "config.rate must be a number in [0, 1]: got 2.0"),
        ("mesh.axis_type", "explicit", "config.mesh.axis_type must be one of auto: got 'explicit'"),
        ("layers", 0, "config.layers must be at least 1: got 0"),
        ("name", "a/b", "config.name must be the name of a folder, without a path: got 'a/b'"),
    ],
)
def test_a_bad_config_is_one_sentence(field, value, sentence):
    config = decoder.get_config("smoke")
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError) as error:
        steps.check(config)
    assert str(error.value) == sentence


def test_only_data_takes_the_chips_that_are_left():
    config = decoder.get_config("smoke")
    config.mesh.update({"data": 1, "fsdp": -1})
    with pytest.raises(InputError) as error:
        steps.check(config)
    assert str(error.value) == "config.mesh.fsdp must be at least 1: got -1"


def test_a_planned_network_may_warm_up():
    config = decoder.get_config("smoke")
    config.optimizer.accumulate = 2
    config.optimizer.warmup_steps = 100
    optimizer = steps.make_problem(config, Arm("none"), 4).optimizer
    params = {"w": jnp.ones(3)}
    state, moved = optimizer.init(params), []
    for _ in range(4):
        updates, state = optimizer.update(params, state, params)
        moved.append(bool((updates["w"] != 0).all()))
    assert moved == [False, False, False, True]  # the first of two updates has a rate of 0


def test_every_variant_passes_its_own_checks():
    for config in (resnet50, decoder):
        for variant in config.VARIANTS:
            steps.check(config.get_config(variant))


def test_the_tasks_that_are_only_planned_are_known_to_the_program_that_trains():
    assert tasks.PLANNED == tuple(steps.NAMES) == tuple(steps.SIZES)
