"""Edge cases of recurrent layers: dtypes, lengths, empty sequences, masks."""

from functools import partial

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.random import clone
from jax.sharding import PartitionSpec as P

import flax_spatialdrop.linen
from flax_spatialdrop import RecurrentMasks, apply_mask, zoneout

from ..errors import exactly
from .faces import (
    BOTH,
    FACES,
    FEATURES,
    HIDDEN,
    KEY,
    LENGTHS,
    X,
    assert_close,
    each_face,
    each_variant,
    one_face,
)


@pytest.fixture
def as_on_gpus(monkeypatch):
    """Runs the code for GPUs and TPUs, on which no test runs."""

    def default(*arguments, default, **platforms):
        return default(*arguments)

    monkeypatch.setattr(lax, "platform_dependent", default)


@one_face
@each_variant
def test_the_projection_before_the_loop_changes_nothing(face, kind, options, request):
    layer = face(kind, **BOTH, **options)
    masks = layer.masks(X, clone(KEY))

    def run(params):
        outputs = layer(X, params, masks=masks, seq_lengths=LENGTHS)
        return (outputs**2).sum(), outputs

    expected = jax.jit(jax.value_and_grad(run, has_aux=True))(layer.params)
    request.getfixturevalue("as_on_gpus")
    found = jax.jit(jax.value_and_grad(lambda p: run(p), has_aux=True))(layer.params)
    assert_close(found, expected, 1e-5)


@each_face
def test_inputs_in_bfloat16_are_scaled_in_float32(face):
    """In the first step, when the state is 0, the output shows the dropped inputs."""
    layer = face("SimpleRNN", dropout=0.1, dtype=jnp.bfloat16)
    x = X[:, :1].astype(jnp.bfloat16)
    masks = layer.masks(x, clone(KEY))
    dropped = apply_mask(x, masks.inputs[:, None], 0.1)
    np.testing.assert_array_equal(layer(x, masks=masks), layer(dropped, dropout=0.0))


@pytest.mark.parametrize("rate", [0.0, 1.0, jnp.float32(0), jnp.float32(1)])
def test_the_mean_of_zoneout_is_one_of_the_two_at_the_ends(rate):
    new, previous = jnp.array([jnp.inf, 2.0]), jnp.array([1.0, jnp.inf])
    y = zoneout(None, new, rate, previous=previous, deterministic=True)
    np.testing.assert_array_equal(y, previous if rate == 1 else new)


def test_the_mean_of_zoneout_is_computed_in_float32():
    new, previous = jnp.full(1, 11.0, jnp.bfloat16), jnp.full(1, 10.0, jnp.bfloat16)
    y = zoneout(None, new, 0.1, previous=previous, deterministic=True)
    np.testing.assert_array_equal(y, jnp.full(1, 10.9, jnp.bfloat16))


@each_face
@pytest.mark.parametrize("variant", ["variational", "zoneout"])
def test_masks_of_what_is_not_dropped_are_ignored(face, variant):
    layer = face("LSTM", **BOTH, variant=variant)
    masks = layer.masks(X, clone(KEY))
    without = layer(X, masks=masks._replace(inputs=None), dropout=0.0)
    np.testing.assert_array_equal(layer(X, masks=masks, dropout=0.0), without)
    assert (without != layer(X, masks=masks)).any()


@each_face
@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            RecurrentMasks(None, None),
            "masks.inputs is needed unless its rate is the number 0: got None",
        ),
        (
            RecurrentMasks(jnp.ones((4, FEATURES), bool), jnp.ones((4, 11, HIDDEN), bool)),
            "masks.state must be a tuple of masks of the shapes ((4, 11, 7),), with as many "
            "steps as the inputs: got (4, 11, 7)",
        ),
    ],
)
def test_masks_that_are_refused(face, masks, message):
    layer = face("GRU", **BOTH, variant="zoneout")
    with pytest.raises(ValueError, match=exactly(message)):
        layer(X, masks=masks)


@each_face
@pytest.mark.parametrize("batch", [(3,), (2, 3), ()])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_sequence_without_steps(face, kind, batch):
    layer = face(kind, **BOTH)
    carry, outputs = layer.drawn(jnp.ones((*batch, 0, FEATURES)), clone(KEY), return_carry=True)
    assert outputs.shape == (*batch, 0, HIDDEN)
    assert not any(part.any() for part in jax.tree.leaves(carry))


def test_lengths_of_few_bits():
    layer = FACES["nnx"]("GRU")
    x = jax.random.normal(jax.random.key(0), (2, 300, FEATURES))
    options = {"reverse": True, "keep_order": True}
    lengths = np.array([255, 100])
    expected = layer(x, seq_lengths=lengths, **options)
    found = layer(x, seq_lengths=lengths.astype(np.uint8), **options)
    np.testing.assert_array_equal(found, expected)


@each_face
def test_a_carry_of_another_dtype_is_refused(face):
    message = "initial_carry must have the dtypes float32, those of the parameters: got bfloat16"
    with pytest.raises(TypeError, match=exactly(message)):
        face("GRU")(X, initial_carry=jnp.zeros((4, HIDDEN), jnp.bfloat16))


@one_face
def test_zoneout_of_a_reversed_sequence_takes_masks_in_the_order_of_reading(face):
    layer = face("GRU", recurrent_dropout=0.5, variant="zoneout")
    masks = layer.masks(X, clone(KEY))
    found = layer(X, masks=masks, reverse=True)
    assert_close(found, layer(X[:, ::-1], masks=masks))


@one_face
@pytest.mark.parametrize("options", [{"per_gate": True}, {"variant": "zoneout"}])
def test_time_first_with_two_batch_axes(face, options):
    x = jax.random.normal(jax.random.key(1), (9, 2, 3, FEATURES))
    layer = face("LSTM", **BOTH, **options)
    masks = layer.masks(x, clone(KEY), time_major=True)
    found = layer(x, masks=masks, time_major=True)
    state = masks.state
    if "variant" in options:
        state = tuple(jnp.moveaxis(mask, 0, 2) for mask in state)
    last = layer(jnp.moveaxis(x, 0, 2), masks=RecurrentMasks(masks.inputs, state))
    assert_close(found, jnp.moveaxis(last, 2, 0))


@one_face
def test_traced_lengths_out_of_range_are_clipped(face):
    layer = face("GRU")
    wild, tame = np.array([99, -5, 11, 3]), np.array([11, 0, 11, 3])
    options = {"reverse": True, "keep_order": True, "return_carry": True}
    found = jax.jit(lambda n: layer(X, seq_lengths=n, **options))(wild)
    assert_close(found, layer(X, seq_lengths=tame, **options))


@each_face
def test_gradients_of_an_empty_batch(face):
    layer = face("LSTM", **BOTH)
    masks = layer.masks(X[:0], clone(KEY))
    gradient = jax.jit(jax.grad(lambda p: layer(X[:0], p, masks=masks).sum()))(layer.params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_gradients_of_inputs_without_features():
    bare = flax_spatialdrop.linen.GRU(HIDDEN, kernel_init=nn.initializers.zeros)
    params = bare.init(jax.random.key(0), X[..., :0])
    assert jax.jit(jax.grad(lambda p: bare.apply(p, X[..., :0]).sum()))(params)


@one_face
def test_lengths_and_zoneout_with_x64_and_strict_dtypes(face):
    layer, x = face("GRU", **BOTH, variant="zoneout"), X.astype(jnp.float32)
    with jax.enable_x64(True):
        options = {"rngs": clone(KEY), "seq_lengths": jnp.asarray(LENGTHS, jnp.int64)}
        gradient = jax.jit(jax.grad(lambda x: layer(x, reverse=True, **options).sum()))(x)
    assert gradient.dtype == jnp.float32


def test_a_symbolic_time_takes_one_scan():
    """In training, in evaluation and for gradients, with lengths and in both directions."""
    layers = [flax_spatialdrop.linen.LSTM(HIDDEN, **BOTH), flax_spatialdrop.linen.GRU(HIDDEN)]
    layer = flax_spatialdrop.linen.Bidirectional(*layers)
    params = layer.init(jax.random.key(0), X, deterministic=True)

    def run(x, lengths, off):
        def loss(x):
            rngs = None if off else {"dropout": jax.random.key(1)}
            return layer.apply(params, x, seq_lengths=lengths, deterministic=off, rngs=rngs)

        return loss(x), jax.grad(lambda x: loss(x).sum())(x)

    batch, time = jax.export.symbolic_shape("b, t")
    x = jax.ShapeDtypeStruct((batch, time, FEATURES), jnp.float32)
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    for off in (True, False):
        program = jax.jit(partial(run, off=off))
        exported = jax.export.export(program)(x, lengths)
        assert_close(exported.call(X, LENGTHS), program(X, LENGTHS), 1e-5)


@pytest.mark.parametrize("name", ["LSTM", "RNN"])
def test_a_first_carry_inside_shard_map(name):
    cells = {"LSTM": flax_spatialdrop.linen.LSTM(HIDDEN, **BOTH, deterministic=False)}
    cells["RNN"] = flax_spatialdrop.linen.RNN(nn.GRUCell(HIDDEN), **BOTH, deterministic=False)
    layer = cells[name]
    params = layer.init(dict.fromkeys(("params", "dropout"), clone(KEY)), X)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(params, x):
        return layer.apply(params, x, rng=jax.random.key(1))

    mapped = jax.shard_map(run, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))

    def gradient(f):
        return jax.jit(jax.grad(lambda params: (f(params, X) ** 2).sum()))(params)

    halves = gradient(lambda p, x: jnp.concatenate([run(p, x[:2]), run(p, x[2:])]))
    assert_close(gradient(mapped), halves, 1e-4)


def test_lengths_of_nothing():
    layer, key = flax_spatialdrop.linen.GRU(4), jax.random.key(0)
    y, variables = layer.init_with_output(key, jnp.ones((5, 3)), seq_lengths=0)
    assert not y.any()
    assert layer.apply(variables, jnp.ones((0, 5, 3)), seq_lengths=[]).shape == (0, 5, 4)
