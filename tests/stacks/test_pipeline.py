"""Pipelines with micro-batches, by keys of their own or by the rows of the whole batch's masks.

Weights of whole numbers, 100 times as large, make tanh exactly 1, -1 or 0. Then all sums are exact,
and outputs are equal in every bit if and only if the masks are.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.stacks import pipeline
from experiments.stacks.layers import key_of
from experiments.stacks.pipeline import one_by_one, own_keys, pipelined, rows_of_whole
from flax_spatialdrop import dropout
from tests.stacks.recorded import assert_close

STAGES, LAYERS, MICRO_BATCHES, ROWS, FEATURES = 4, 2, 3, 2, 8
BATCH = MICRO_BATCHES * ROWS
RATE = 0.5

exact = 100.0 * jax.random.randint(
    jax.random.key(0), (STAGES, LAYERS, FEATURES, FEATURES), -3, 4
).astype(jnp.float32)
real = jax.random.normal(jax.random.key(1), exact.shape) / 3
whole = jax.random.randint(jax.random.key(2), (BATCH, FEATURES), -9, 10).astype(jnp.float32)
batch = whole.reshape(MICRO_BATCHES, ROWS, FEATURES)
step_key = key_of(jax.random.key(3), 17)  # of step 17


def drop(key, x):
    return dropout(key, x, RATE)


def plain(weights, x, key_of_layer):
    """The layers of all stages as a loop over a batch."""
    for stage in range(STAGES):
        for layer in range(LAYERS):
            key = key_of_layer(stage, layer)
            x = x + drop(key, jnp.tanh(x @ weights[stage, layer]))
    return x


def plain_whole(weights, whole=whole):
    return plain(weights, whole, functools.partial(key_of, step_key))


def by_rows(weights, batch=batch):
    return pipelined(rows_of_whole(step_key, RATE, BATCH), weights, batch)


def gradient_of_sum_of_squares(run, *inputs):
    """Differentiates at real weights and small inputs, where tanh is not flat."""
    return jax.jit(jax.grad(lambda weights: (run(weights, *inputs) ** 2).sum()))(real)


def alone(micro_batch, seed=3, step=17):
    """One micro-batch without a pipeline; each key is one line of fold_ins."""

    def key_of_layer(stage, layer):
        fold_in, root = jax.random.fold_in, jax.random.key(seed)
        return fold_in(fold_in(fold_in(fold_in(root, step), micro_batch), stage), layer)

    return plain(exact, batch[micro_batch], key_of_layer)


def test_micro_batches_with_own_keys_are_those_of_a_plain_loop():
    stage = own_keys(step_key, drop)
    outputs = jax.jit(functools.partial(pipelined, stage))(exact, batch)
    for micro_batch in range(MICRO_BATCHES):
        assert (outputs[micro_batch] == alone(micro_batch)).all()
    # Another number anywhere is another key.
    assert (outputs[0] != alone(0, step=18)).any()
    assert (outputs[0] != plain(exact, batch[0], lambda s, n: key_of(step_key, 0, n, s))).any()


def test_the_masks_of_a_micro_batch_do_not_depend_on_the_schedule():
    stage = own_keys(step_key, drop)
    all_of_them = jax.jit(functools.partial(pipelined, stage))(exact, batch)
    two_of_them = jax.jit(functools.partial(pipelined, stage))(exact, batch[:2])
    assert (two_of_them == all_of_them[:2]).all()
    assert (one_by_one(stage, exact, batch) == all_of_them).all()


def test_gradients_with_own_keys_are_those_of_a_plain_loop_with_remat_too():
    def gradient(run, stage):
        return gradient_of_sum_of_squares(functools.partial(run, stage), batch / 10)

    stage = own_keys(step_key, drop)
    expected = gradient(one_by_one, stage)
    assert_close(gradient(pipelined, stage), expected)
    assert_close(gradient(pipelined, jax.checkpoint(stage)), expected)


def test_rows_of_the_whole_batch_give_the_run_without_micro_batches():
    assert (jax.jit(by_rows)(exact).reshape(whole.shape) == plain_whole(exact)).all()
    expected = gradient_of_sum_of_squares(plain_whole, whole / 10)
    assert_close(gradient_of_sum_of_squares(by_rows, batch / 10), expected)


def test_accumulated_gradients_by_rows_are_those_of_the_whole_batch():
    stage = rows_of_whole(step_key, RATE, BATCH)

    def loss(weights, micro_batch, x):
        for number in range(STAGES):
            x = stage(weights[number], micro_batch, number, x)
        return (x**2).sum()

    def accumulate(total, inputs):
        return total + jax.grad(loss)(real, *inputs), None

    inputs = jnp.arange(MICRO_BATCHES), batch / 10
    total, _ = jax.jit(lambda: jax.lax.scan(accumulate, jnp.zeros_like(real), inputs))()
    assert_close(total, gradient_of_sum_of_squares(plain_whole, whole / 10))


@pytest.mark.parametrize(
    "stage",
    [own_keys(step_key, drop), rows_of_whole(step_key, RATE, BATCH)],
    ids=["own_keys", "rows_of_whole"],
)
def test_a_stage_on_each_device_draws_the_same_masks(stage):
    expected = one_by_one(stage, exact, batch)
    mesh = jax.make_mesh((STAGES,), ("stage",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(exact, NamedSharding(mesh, P("stage")))
    assert (jax.jit(functools.partial(pipelined, stage))(sharded, batch) == expected).all()
    by_hand = functools.partial(pipeline.pipelined_by_hand, stage, mesh=mesh)
    # JAX counts it as a use of a key when the key's type changes to one that differs by device.
    with jax.debug_key_reuse(False):
        assert (jax.jit(by_hand)(sharded, batch) == expected).all()


def test_the_example_has_the_masks_of_flax():
    def run(drop):
        example = pipeline.example(drop)
        inputs = example.params[..., :8, :8], step_key, example.batch[..., :6, :8]
        return jax.jit(jax.value_and_grad(example.loss))(*inputs)

    theirs, ours, without = run(pipeline.THEIRS), run(pipeline.OURS), run(None)
    assert_close(ours, theirs)
    assert not np.allclose(without[0], theirs[0])
