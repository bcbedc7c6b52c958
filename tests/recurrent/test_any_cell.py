"""RNN: with cells of Flax it equals our own layers; it also runs cells of users."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

import flax_spatialdrop.linen
import flax_spatialdrop.nnx

from ..errors import exactly
from .faces import (
    BOTH,
    CELLS,
    FEATURES,
    HIDDEN,
    KEY,
    KINDS,
    LENGTHS,
    X,
    assert_close,
    random_bits_inside_scans,
)


class Keeps(nn.RNNCellBase):
    """Returns the carry unchanged, and a dense layer of the carry as output."""

    @nn.compact
    def __call__(self, carry, x):
        return carry, nn.Dense(3, use_bias=False)(carry)

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.ones((*input_shape[:-1], HIDDEN))

    @property
    def num_feature_axes(self):
        return 1


class KeepsNNX(nnx.RNNCellBase):
    """The same for NNX."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(HIDDEN, 3, use_bias=False, rngs=rngs)

    @property
    def num_feature_axes(self):
        return 1

    def __call__(self, carry, x):
        return carry, self.dense(carry)

    def initialize_carry(self, input_shape, rngs):
        return jnp.ones((*input_shape[:-1], HIDDEN))


def run_linen(layer, params, masks=None, x=X, **options):
    return layer.apply(params, x, masks=masks, deterministic=masks is None, **options)


def linen_pair(kind, **options):
    """Returns RNN with a cell of Flax, our own layer, and parameters for both."""
    cell = getattr(nn, CELLS[kind])(HIDDEN)
    layers = (
        flax_spatialdrop.linen.RNN(cell, **options),
        getattr(flax_spatialdrop.linen, kind)(HIDDEN, **options),
    )
    params = layers[1].init(jax.random.key(1), X, deterministic=True)
    return *layers, jax.tree.map(lambda w: w + 0.1, params)


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("LSTM", "variational"),
        ("LSTM", "zoneout"),
        ("GRU", "zoneout"),
        ("SimpleRNN", "variational"),
    ],
)
def test_around_flax_s_cells_it_is_our_own_layer(kind, variant):
    """Compares masks, outputs, carry and gradients, with padding and in both directions."""
    around, own, params = linen_pair(kind, **BOTH, variant=variant)
    host = nn.RNN(getattr(nn, CELLS[kind])(HIDDEN))
    mine, theirs = (m.init(jax.random.key(1), X) for m in (around.clone(deterministic=True), host))
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    draw = {"deterministic": False, "method": "sample_masks"}
    masks, again = (m.apply(params, X, rng=clone(KEY), **draw) for m in (own, around))
    jax.tree.map(np.testing.assert_array_equal, masks, again)
    for options in ({}, {"reverse": True, "keep_order": True}, {"seq_lengths": LENGTHS}):
        found, expected = (
            run_linen(layer, params, masks, return_carry=True, **options) for layer in (around, own)
        )
        assert_close(found, expected, 1e-5)

    def loss(params, layer):
        return (run_linen(layer, params, masks, seq_lengths=LENGTHS) ** 2).sum()

    gradients = [jax.jit(jax.grad(partial(loss, layer=m)))(params) for m in (around, own)]
    assert_close(*gradients, 1e-4)
    assert_close(run_linen(around, params), run_linen(own, params), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_around_nnx_s_cells_it_is_our_own_layer(kind):
    cell = getattr(nnx, CELLS[kind])(FEATURES, HIDDEN, rngs=nnx.Rngs(0))
    around = flax_spatialdrop.nnx.RNN(cell, **BOTH)
    own = getattr(flax_spatialdrop.nnx, kind)(
        FEATURES, HIDDEN, **BOTH, rngs=nnx.Rngs(1), dropout_rngs=False
    )
    assert jax.tree.structure(nnx.state(around)) == jax.tree.structure(nnx.state(own))
    nnx.update(own, nnx.state(around))
    assert_close(around(X, rngs=clone(KEY)), own(X, rngs=clone(KEY)), 1e-5)
    host = nnx.RNN(cell, rngs=False)
    first = cell.initialize_carry((4, FEATURES), nnx.Rngs(0))
    assert_close(around.eval() or around(X), host(X, initial_carry=first), 1e-5)


@pytest.mark.parametrize("cell", [nn.OptimizedLSTMCell, nn.MGUCell])
def test_cells_that_have_no_layer_of_ours(cell):
    layer = flax_spatialdrop.linen.RNN(cell(HIDDEN), **BOTH)
    params = layer.init(jax.random.key(1), X, deterministic=True)
    assert_close(run_linen(layer, params), nn.RNN(cell(HIDDEN)).apply(params, X), 1e-6)
    first, second = (
        layer.apply(params, X, deterministic=False, rngs={"dropout": key})
        for key in jax.random.split(clone(KEY))
    )
    assert (first != second).any()


def test_a_convolutional_cell_has_masks_of_its_features():
    x = jax.random.normal(jax.random.key(0), (2, 3, 6, 5, FEATURES))
    layer = flax_spatialdrop.linen.RNN(nn.ConvLSTMCell(4, (3, 3)), **BOTH)
    params = layer.init(jax.random.key(1), x, deterministic=True)
    masks = layer.apply(params, x, rng=clone(KEY), deterministic=False, method="sample_masks")
    assert masks.inputs.shape == (2, 6, 5, FEATURES)
    assert masks.state.shape == (2, 6, 5, 4)
    lengths = jnp.array([3, 2])
    whole = run_linen(layer, params, masks, x, seq_lengths=lengths)
    padded = x.at[1, 2].set(jnp.nan)
    assert_close(run_linen(layer, params, masks, padded, seq_lengths=lengths), whole)
    assert not whole[1, 2].any()
    assert whole[1, 1].any()


@pytest.mark.parametrize("face", ["linen", "nnx"])
def test_the_carried_state_is_never_scaled_and_what_looks_at_it_sees_it_dropped(face):
    """The carry does not change in 512 steps at a rate of 0.5; the dense layer reads it dropped."""
    x = jnp.ones((4, 512, 1))
    if face == "linen":
        layer = flax_spatialdrop.linen.RNN(Keeps(), recurrent_dropout=0.5, return_carry=True)
        params = layer.init(jax.random.key(1), x, deterministic=True)
        masks = layer.apply(params, x, rng=clone(KEY), deterministic=False, method="sample_masks")
        carry, outputs = run_linen(layer, params, masks, x)
        kernel = params["params"]["cell"]["Dense_0"]["kernel"]
    else:
        layer = flax_spatialdrop.nnx.RNN(
            KeepsNNX(nnx.Rngs(0)), recurrent_dropout=0.5, return_carry=True
        )
        masks = layer.sample_masks(x, rngs=clone(KEY))
        carry, outputs = layer(x, masks=masks)
        kernel = layer.cell.dense.kernel[...]
    np.testing.assert_array_equal(carry, jnp.ones((4, HIDDEN)))
    assert_close(
        outputs, jnp.tile((jnp.where(masks.state, 2.0, 0.0) @ kernel)[:, None], (1, 512, 1)), 1e-5
    )


def test_a_product_inside_jit_sees_the_dropped_state_and_a_function_with_a_gradient_of_its_own():
    class Jitted(Keeps):
        @nn.compact
        def __call__(self, carry, x):
            kernel = self.param("kernel", nn.initializers.normal(), (HIDDEN, 3))
            seen = jax.jit(lambda h: jax.nn.relu(2 * h) @ kernel)(carry)
            return jax.nn.relu(carry), seen

    layer = flax_spatialdrop.linen.RNN(Jitted(), recurrent_dropout=0.5, return_carry=True)
    params = layer.init(jax.random.key(1), X, deterministic=True)
    masks = layer.apply(params, X, rng=clone(KEY), deterministic=False, method="sample_masks")
    carry, outputs = run_linen(layer, params, masks)
    np.testing.assert_array_equal(carry, jnp.ones((4, HIDDEN)))
    expected = jnp.where(masks.state, 4.0, 0.0) @ params["params"]["cell"]["kernel"]
    assert_close(outputs[:, 0], expected, 1e-5)


def test_masks_are_drawn_outside_the_loop_and_traced_rates_cost_one_compile():
    layer = flax_spatialdrop.linen.RNN(nn.GRUCell(HIDDEN), **BOTH)
    params = layer.init(jax.random.key(1), X, deterministic=True)

    def run(key, rate):
        options = {"dropout": rate, "recurrent_dropout": rate}
        return layer.apply(params, X, deterministic=False, rng=key, **options)

    program = jax.make_jaxpr(run)(KEY, 0.5)
    assert random_bits_inside_scans(program.jaxpr) == 0
    traced = jax.jit(run)
    assert_close(traced(clone(KEY), 0.0), run_linen(layer, params), 1e-6)
    assert_close(traced(clone(KEY), 1.0), run(clone(KEY), 1.0), 1e-6)
    assert traced._cache_size() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"variant": "no_memory_loss"},
            "variant='no_memory_loss' drops the new content that a gate adds to the state, and "
            "RNN does not know the gates of its cell; use 'variational' or 'zoneout', or LSTM or "
            "GRU",
        ),
        (
            {"per_gate": True},
            "per_gate=True draws a mask for each gate, and RNN does not know the gates of its "
            "cell; use LSTM or GRU",
        ),
    ],
)
def test_what_is_refused(options, message):
    layer = flax_spatialdrop.linen.RNN(nn.GRUCell(HIDDEN), **options)
    with pytest.raises(ValueError, match=exactly(message)):
        layer.init(jax.random.key(0), X)


@pytest.mark.parametrize("wrap", [nn.remat, nn.jit])
def test_a_cell_that_is_rematerialised_or_jitted_is_looked_into(wrap):
    plain, wrapped = (
        flax_spatialdrop.linen.RNN(cls(HIDDEN), **BOTH) for cls in (nn.GRUCell, wrap(nn.GRUCell))
    )
    params = plain.init(jax.random.key(1), X, deterministic=True)
    masks = plain.apply(params, X, rng=clone(KEY), deterministic=False, method="sample_masks")
    found, expected = (
        jax.value_and_grad(lambda p, m=m: (run_linen(m, p, masks) ** 2).sum())(params)
        for m in (wrapped, plain)
    )
    assert_close(found, expected, 1e-5)


class Loops(Keeps):
    """Reads its state in a dense layer inside of a branch."""

    @nn.compact
    def __call__(self, carry, x):
        kernel = self.param("kernel", nn.initializers.normal(), (HIDDEN, 3))
        y = jax.lax.cond(x.sum() > 0, lambda h: h @ kernel, lambda h: h[..., :3], carry)
        return carry, y


class Blind(Keeps):
    """Has no dense layer."""

    @nn.compact
    def __call__(self, carry, x):
        return carry * self.param("scale", nn.initializers.ones, (1, HIDDEN)), carry


class NoBatch(Keeps):
    """Its carry has a counter without a batch axis."""

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros(()), jnp.ones((*input_shape[:-1], HIDDEN))


class Two(Keeps):
    """Returns two outputs."""

    @nn.compact
    def __call__(self, carry, x):
        return carry, (carry, carry)


REFUSED_CELLS = {
    Loops: (
        "RNN cannot drop the state where a dense layer or a convolution reads it inside "
        "jax.lax.cond; move that layer out of jax.lax.cond, or use variant='zoneout'"
    ),
    Blind: (
        "RNN drops the state, the last part of a cell's carry, where a dense layer or a "
        "convolution reads it: got a cell in which none reads it; use variant='zoneout', or set "
        "recurrent_dropout=0"
    ),
    NoBatch: (
        "RNN takes a cell whose carry has parts of shape [*batch, ...], here with the batch (4,): "
        "got shapes [(), (4, 7)]"
    ),
    Two: (
        "RNN takes a cell that returns a carry like the one it is given, of 1 arrays, and one "
        "array of outputs: got 1 and 2"
    ),
}


@pytest.mark.parametrize("cell", REFUSED_CELLS)
def test_cells_that_are_refused(cell):
    layer = flax_spatialdrop.linen.RNN(cell(), recurrent_dropout=0.5, deterministic=False)
    with pytest.raises(ValueError, match=exactly(REFUSED_CELLS[cell])):
        layer.init({"params": clone(KEY), "dropout": clone(KEY)}, X)


def test_what_is_no_cell_is_refused():
    for wrong in (nn.RNN(nn.GRUCell(3)), nn.GRUCell, flax_spatialdrop.linen.LSTM(3)):
        message = r"RNN takes a cell, such as an instance of flax\.linen\.RNNCellBase: .*: got"
        with pytest.raises(TypeError, match=message):
            flax_spatialdrop.linen.RNN(wrong)
    for wrong in (nnx.GRUCell, nn.GRUCell(3), nnx.Linear(2, 3, rngs=nnx.Rngs(0))):
        message = r"RNN takes a cell, such as an instance of nnx\.RNNCellBase: .*: got"
        with pytest.raises(TypeError, match=message):
            flax_spatialdrop.nnx.RNN(wrong)
