"""RNN with cells that draw, write to variables, or take integers equals RNN of Linen and NNX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop._recurrent.any_cell import hold_unwritten
from flax_spatialdrop.nnx._recurrent import OpenCell

from ..nnx.gradients import value_and_grad
from .faces import FEATURES, HIDDEN, KEY, X, assert_close


class Noisy(nn.RNNCellBase):
    """A cell with dropout, a batch norm and a counter."""

    @nn.compact
    def __call__(self, carry, x):
        count = self.variable("count", "steps", lambda: jnp.zeros((), jnp.int32))
        if self.is_mutable_collection("count") and not self.is_initializing():
            count.value += 1
        x = nn.BatchNorm(use_running_average=False)(nn.Dense(HIDDEN)(x))
        carry = jnp.tanh(x + nn.Dense(HIDDEN)(carry))
        return carry, nn.Dropout(0.5, deterministic=False)(carry)

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], HIDDEN))

    @property
    def num_feature_axes(self):
        return 1


class NoisyNNX(nnx.Module):
    """The same for NNX; it does not derive from Flax's class."""

    num_feature_axes = 1

    def __init__(self, rngs):
        self.of_input = nnx.Linear(FEATURES, HIDDEN, rngs=rngs)
        self.of_state = nnx.Linear(HIDDEN, HIDDEN, rngs=rngs)
        self.norm = nnx.BatchNorm(HIDDEN, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.steps = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, carry, x):
        self.steps[...] += 1
        carry = jnp.tanh(self.norm(self.of_input(x)) + self.of_state(carry))
        return carry, self.dropout(carry)

    def initialize_carry(self, input_shape, rngs):
        return jnp.zeros((*input_shape[:-1], HIDDEN))


@pytest.mark.parametrize("broadcast", [None, ...])
def test_nnx_draws_anew_and_carries_state_as_the_host_does(broadcast):
    ours, theirs = (
        make(NoisyNNX(nnx.Rngs(0)), broadcast_rngs=broadcast)
        for make in (flax_spatialdrop.nnx.RNN, nnx.RNN)
    )
    outputs = []
    for _ in range(2):
        outputs.append(ours(X))
        assert_close(outputs[-1], theirs(X), 1e-5)
    dropped = [np.asarray(y == 0) for y in outputs]
    assert (dropped[0] != dropped[1]).any()
    assert (dropped[0][:, 1:] != dropped[0][:, :-1]).any() == (broadcast is None)
    assert_close(ours.cell.norm.mean[...], theirs.cell.norm.mean[...], 1e-5)
    assert ours.cell.steps[...] == 2 * X.shape[1]
    gradients = [
        jax.tree.leaves(value_and_grad(lambda layer: (layer(X) ** 2).sum())(layer)[1])
        for layer in (ours, theirs)
    ]
    assert_close(*gradients, 1e-4)


def test_nnx_carries_what_a_step_writes_and_no_parameters():
    """JAX keeps a copy of the carry at every step for the gradient, so it must be small."""
    layer = flax_spatialdrop.nnx.RNN(NoisyNNX(nnx.Rngs(0)))
    carry = layer.cell.initialize_carry(X[:, 0].shape, None)
    cell = OpenCell(layer.cell)
    axes = cell.axes(layer.state_axes)
    variables = hold_unwritten(cell, cell.arrays, axes, carry, X, 1)
    shapes = [array.shape for array in variables.carried]
    assert sorted(shapes) == [(), (), (HIDDEN,), (HIDDEN,)]  # two counts; mean and variance


class Bias(nnx.Param):
    """A variable with a time axis."""


def test_nnx_scans_over_variables_as_the_host_does():
    class Biased(NoisyNNX):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.bias = Bias(jax.random.normal(rngs(), (HIDDEN, X.shape[1])))

        def __call__(self, carry, x):
            carry, y = super().__call__(carry, x)
            return carry, y + self.bias[...][None]

    axes = nnx.StateAxes({Bias: 1, ...: nnx.Carry})  # with a dict, Flax fails to sort its keys
    ours, theirs = (
        make(Biased(nnx.Rngs(0)), state_axes=axes) for make in (flax_spatialdrop.nnx.RNN, nnx.RNN)
    )
    assert_close(ours(X), theirs(X), 1e-5)
    assert ours.cell.bias.shape == (HIDDEN, X.shape[1])


def test_both_directions_of_nnx_draw_anew():
    layers = [flax_spatialdrop.nnx.RNN(NoisyNNX(nnx.Rngs(seed))) for seed in (0, 1)]
    layer = flax_spatialdrop.nnx.Bidirectional(*layers)
    assert (layer(X) != layer(X)).any()


RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
STATE = ["batch_stats", "count"]


@pytest.mark.parametrize(
    "options",
    [{}, {"variable_carry": STATE, "split_rngs": {"params": False, "dropout": True}}],
)
def test_linen_draws_anew_and_carries_state_as_the_host_does(options):
    ours = flax_spatialdrop.linen.RNN(Noisy(), **options)
    split = {"params": False, "dropout": True}
    theirs = nn.RNN(Noisy(), variable_carry=STATE, split_rngs=split)
    variables = ours.init(RNGS, X)
    (y, state), (z, expected) = (
        m.apply(variables, X, rngs=RNGS, mutable=STATE) for m in (ours, theirs)
    )
    assert_close(y, z, 1e-5)
    assert_close(state, expected, 1e-5)
    assert state["count"]["cell"]["steps"] == X.shape[1]
    dropped = np.asarray(y == 0)
    assert (dropped[:, 1:] != dropped[:, :-1]).any()


def test_linen_draws_the_same_in_every_step_if_it_is_told_to():
    layer = flax_spatialdrop.linen.RNN(Noisy(), split_rngs={"params": False, "dropout": False})
    variables = layer.init(RNGS, X)
    dropped = np.asarray(layer.apply(variables, X, rngs=RNGS, mutable=STATE)[0] == 0)
    np.testing.assert_array_equal(dropped[:, 1:], dropped[:, :-1])
    assert dropped.any()


def test_linen_drops_around_such_a_cell():
    layer = flax_spatialdrop.linen.RNN(Noisy(), recurrent_dropout=0.5, deterministic=False)
    variables = layer.init(RNGS, X)
    options = {"rngs": RNGS, "mutable": STATE}
    first, second = (layer.apply(variables, X, rng=k, **options) for k in jax.random.split(KEY))
    assert (first[0] != second[0]).any()
    assert first[1]["count"]["cell"]["steps"] == X.shape[1]


def test_nnx_takes_two_batch_axes():
    layer = flax_spatialdrop.nnx.RNN(NoisyNNX(nnx.Rngs(0)), recurrent_dropout=0.5)
    x = jnp.stack([X, X + 1])
    masks = layer.sample_masks(x, rngs=clone(KEY))
    flat = jax.tree.map(lambda mask: mask.reshape(-1, *mask.shape[2:]), masks)
    twin = nnx.clone(layer)
    y = layer(x, masks=masks)
    assert_close(y, twin(x.reshape(-1, *X.shape[1:]), masks=flat).reshape(y.shape), 1e-5)


class Embeds(nnx.Module):
    """A cell whose inputs are ids, [batch]."""

    num_feature_axes = 0

    def __init__(self, rngs):
        self.table = nnx.Embed(10, HIDDEN, rngs=rngs)
        self.of_state = nnx.Linear(HIDDEN, HIDDEN, rngs=rngs)

    def __call__(self, carry, ids):
        carry = jnp.tanh(self.table(ids) + self.of_state(carry))
        return carry, carry

    def initialize_carry(self, input_shape, rngs):
        return jnp.zeros((*input_shape, HIDDEN))


def test_a_cell_that_takes_integers():
    cell = Embeds(nnx.Rngs(0))
    layer = flax_spatialdrop.nnx.RNN(cell)
    ids = jnp.arange(12).reshape(3, 4) % 10
    lengths = jnp.array([4, 2, 3])
    found = layer(ids, seq_lengths=lengths)
    carry = cell.initialize_carry((3,), None)
    for t in range(4):
        carry, y = cell(carry, ids[:, t])
        expected = jnp.where((lengths > t)[:, None], y, 0)
        assert_close(found[:, t], expected, 1e-6)
    assert layer(ids, recurrent_dropout=0.5, rngs=clone(KEY)).shape == (3, 4, HIDDEN)
    with pytest.raises(TypeError, match="if dropout scales them: got dtype int32"):
        layer(ids, dropout=0.5, rngs=clone(KEY))
