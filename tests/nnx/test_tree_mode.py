"""Tree mode of NNX, in which models are trees without shared references.

The other tests of NNX run in tree mode too if the environment asks for it, as in `.ci/run`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.configurations import config

from flax_spatialdrop.nnx import RNN, Dropout, ResidualDropPath, drop_in, summarize

from ..catalogue import FIRST_OF_EACH
from .gradients import value_and_grad

has_prefix = pytest.mark.skipif(
    not hasattr(nnx, "prefix"), reason="nnx.prefix and nnx.with_rngs came with Flax 0.12.7"
)
LENGTH = 3
X = jnp.ones((4, 8))


@pytest.fixture(autouse=True)
def tree_mode():
    names = [name for name in ("nnx_graph_mode", "nnx_graph_updates") if hasattr(config, name)]
    before = {name: getattr(config, name) for name in names}
    for name in names:
        config.update(name, False)
    yield
    for name, value in before.items():
        config.update(name, value)


@has_prefix
@pytest.mark.parametrize("case", FIRST_OF_EACH, ids=lambda case: case.id)
def test_members_of_each_module_have_streams_of_their_own(case):
    x = jax.random.normal(jax.random.key(0), case.shape)
    layer = case.module("nnx")(0.5, **case.options, rngs=nnx.Rngs(1))
    members = nnx.with_rngs(layer, split=LENGTH)
    axes = nnx.prefix(members, {nnx.RngState: 0, ...: None})
    keys = members.rngs.key[...]
    outputs = nnx.jit(nnx.vmap(lambda layer, x: layer(x), in_axes=(axes, None)))(members, x)
    for output, key in zip(outputs, keys, strict=True):
        expected = jax.jit(lambda key: layer(x, rngs=nnx.Rngs(dropout=key)))(key)
        np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)
    assert len(np.unique(outputs, axis=0)) == LENGTH
    np.testing.assert_array_equal(members.rngs.count[...], [1] * LENGTH)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.drop = Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.dense(x))


@has_prefix
def test_a_scan_over_blocks_is_a_loop_over_them():
    make = nnx.vmap(Block)
    blocks = make(nnx.with_rngs(nnx.Rngs(params=0, dropout=1), split=LENGTH))
    axes = nnx.prefix(blocks, {nnx.Param: 0, nnx.RngState: 0})

    @nnx.jit
    @nnx.scan(in_axes=(axes, nnx.Carry), out_axes=(nnx.Carry, 0))
    @nnx.remat
    def run(block, x):
        y = block(x)
        return x + y, y != 0

    y, masks = run(blocks, X)
    loop, expected = X, []
    for i in range(LENGTH):
        block = Block(nnx.Rngs(0))
        params = jax.tree.map(lambda value, i=i: value[i], nnx.state(blocks, nnx.Param))
        nnx.update(block, params)
        block.drop.rngs = None
        added = block.drop(block.dense(loop), rngs=nnx.Rngs(dropout=blocks.drop.rngs.key[i]))
        loop, expected = loop + added, [*expected, added != 0]
    np.testing.assert_array_equal(masks, expected)
    np.testing.assert_allclose(y, loop, rtol=1e-5)
    assert len(np.unique(masks, axis=0)) == LENGTH


def test_modules_that_are_made_from_one_rngs_share_nothing():
    rngs = nnx.Rngs(0)
    layers = [case.module("nnx")(0.5, **case.options, rngs=rngs) for case in FIRST_OF_EACH]
    streams = nnx.state(nnx.List(layers), nnx.RngKey)  # Flax checks that none is there twice
    keys = {jax.random.key_data(key).tobytes() for key in jax.tree.leaves(streams)}
    assert len(keys) == len(layers)


def test_a_layer_in_two_places_is_an_error_of_flax_but_not_of_the_tools():
    layer = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    model = nnx.Sequential(layer, layer)
    assert set(drop_in(model).reached) == {("layers", 0)}
    assert [site.path for site in summarize(model, X).sites] == ["layers/0", "layers/0 (call 2)"]
    with pytest.raises(ValueError, match=r"[Dd]uplicate"):
        nnx.state(model)


def test_a_residual_block_of_a_function():
    run = nnx.jit(lambda layer, x: layer(x))
    layer = ResidualDropPath(jnp.tanh, 0.5, mode="batch", rngs=nnx.Rngs(0))
    outputs = {float(run(layer, X)[0, 0]) for _ in range(16)}
    np.testing.assert_allclose(sorted(outputs), [1, 1 + 2 * np.tanh(1)], rtol=1e-6)


@pytest.mark.parametrize("broadcast", [None, ...])
def test_an_rnn_of_a_cell_that_draws(broadcast):
    class Cell(nnx.Module):
        num_feature_axes = 1

        def __init__(self):
            self.drop = Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, carry, x):
            return carry, self.drop(x)

        def initialize_carry(self, input_shape, rngs):
            return jnp.zeros(input_shape)

    layer = RNN(Cell(), broadcast_rngs=broadcast)
    _, gradient = nnx.jit(value_and_grad(lambda layer: layer(jnp.ones((2, 5, 8))).sum()))(layer)
    assert not jax.tree.leaves(gradient)
    masks = layer(jnp.ones((1, 5, 64)))[0] != 0
    assert len(np.unique(masks, axis=0)) == (5 if broadcast is None else 1)
    assert layer.cell.drop.rngs.count[...] == (10 if broadcast is None else 2)
