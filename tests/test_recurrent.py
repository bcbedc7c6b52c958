"""LSTM, GRU and SimpleRNN: as the host's without dropout, as the papers' loops with it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import (
    RecurrentMasks,
    _recurrent_scan,
    dropout,
    recurrent_dropout,
    recurrent_masks,
    sample_mask,
    zoneout,
)

from .errors import exactly
from .recurrent import CELLS, FACES, FEATURES, GATES, HIDDEN, KINDS, loop

KEY = jax.random.key(31)
X = jax.random.normal(jax.random.key(0), (4, 11, FEATURES))
LENGTHS = jnp.array([11, 1, 7, 0])
BOTH = {"dropout": 0.3, "recurrent_dropout": 0.4}

each_face = pytest.mark.parametrize("face", FACES.values(), ids=list(FACES))
one_face = pytest.mark.parametrize("face", [FACES["nnx"]], ids=["nnx"])  # the loop is the same
each_kind = pytest.mark.parametrize("kind", KINDS)
VARIANTS = [
    (kind, {"variant": variant, "per_gate": per_gate})
    for kind in KINDS
    for variant in ("variational", "no_memory_loss", "zoneout")
    for per_gate in (False, True)
    if not (kind == "SimpleRNN" and (per_gate or variant == "no_memory_loss"))
    if not (variant == "zoneout" and per_gate)
    if not (variant == "no_memory_loss" and kind == "GRU" and per_gate)
]
each_variant = pytest.mark.parametrize(
    ("kind", "options"),
    VARIANTS,
    ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())),
)


def close(actual, expected, tolerance=1e-6):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )


@each_face
@each_kind
@pytest.mark.parametrize("time", [3, 19])  # within a piece of the loop; pieces and a rest
def test_without_dropout_it_is_the_host_s(face, kind, time):
    layer, x = face(kind), jax.random.normal(jax.random.key(1), (3, time, FEATURES))
    close(layer(x, return_carry=True), layer.of_host(x, return_carry=True))
    for options in ({"reverse": True}, {"reverse": True, "keep_order": True}):
        close(layer(x, **options), layer.of_host(x, **options))
    time_first = jnp.swapaxes(x, 0, 1)
    close(jnp.swapaxes(layer(time_first, time_major=True), 0, 1), layer(x))


@each_face
@each_kind
def test_computed_in_bfloat16(face, kind):
    """Products in bfloat16; what is carried in the precision of the parameters."""
    layer, exact = face(kind, dtype=jnp.bfloat16), face(kind)
    carry, outputs = layer(X, return_carry=True)
    assert {part.dtype for part in (*jax.tree.leaves(carry), outputs)} == {jnp.dtype("float32")}
    expected = exact(X)
    assert (outputs != expected).any()
    close(outputs, expected, 0.03)
    gradients = [jax.grad(lambda x, f=f: f(x).sum())(X) for f in (layer, exact)]
    close(*gradients, 0.1)


@each_kind
def test_linen_parameters_are_those_of_the_host(kind):
    layer, host = getattr(flax_spatialdrop.linen, kind)(HIDDEN), FACES["linen"](kind).host
    ours, theirs = (m.init(jax.random.key(2), X) for m in (layer, host))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@each_kind
def test_nnx_parameters_are_those_of_the_host_and_there_is_no_other_state(kind):
    layer = getattr(flax_spatialdrop.nnx, kind)(FEATURES, HIDDEN, **BOTH, rngs=nnx.Rngs(3))
    cell = getattr(nnx, CELLS[kind])(FEATURES, HIDDEN, rngs=nnx.Rngs(3))
    ours, theirs = nnx.state(layer), nnx.state(nnx.RNN(cell, rngs=False))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@each_face
@each_variant
def test_it_is_the_papers_loop(face, kind, options):
    x = jax.random.normal(jax.random.key(1), (4, 19, FEATURES))
    layer = face(kind, **BOTH, **options)
    masks = layer.masks(x, clone(KEY))
    carry, outputs = layer(x, masks=masks, return_carry=True)
    expected, last = loop(
        kind, layer.weights(), np.asarray(x, np.float64), masks, 0.3, 0.4, options["variant"]
    )
    close(outputs, expected, 1e-5)
    close(carry, last, 1e-5)
    np.testing.assert_array_equal(layer.drawn(x, clone(KEY)), layer(x, masks=masks))


@one_face
@each_variant
def test_gradients_are_those_of_a_plain_scan(face, kind, options, monkeypatch):
    """Of parameters and inputs, as JAX derives them of the loop without the rule written for it."""
    layer = face(kind, **BOTH, **options)
    masks = layer.masks(X, clone(KEY))

    def loss(params, x):
        carry, outputs = layer(x, params, masks=masks, return_carry=True)
        return jnp.sin(outputs).sum() + sum(part.sum() for part in jax.tree.leaves(carry))

    def derivatives():
        both = jax.grad(loss, argnums=(0, 1))
        return both(layer.params, X), jax.jvp(lambda x: loss(layer.params, x), (X,), (X,))[1]

    ours = jax.jit(derivatives)()
    monkeypatch.setattr(_recurrent_scan, "_scan", _recurrent_scan._scan.fun)
    close(ours, jax.jit(lambda: derivatives())(), 1e-4)


@one_face
@each_variant
def test_padding_changes_nothing(face, kind, options):
    layer = face(kind, **BOTH, **options)
    masks = layer.masks(X, clone(KEY))
    bad = jnp.where((np.arange(11) < np.asarray(LENGTHS)[:, None])[..., None], X, jnp.nan)

    def run(params, x, **extra):
        carry, outputs = layer(
            x, params, masks=masks, seq_lengths=LENGTHS, return_carry=True, **extra
        )
        return jnp.sin(outputs).sum() + sum(p.sum() for p in jax.tree.leaves(carry)), (
            carry,
            outputs,
        )

    for extra in ({}, {"reverse": True, "keep_order": True}):
        both = jax.jit(jax.value_and_grad(partial(run, **extra), argnums=(0, 1), has_aux=True))
        found = both(layer.params, bad)
        close(found, both(layer.params, X))
        outputs = found[0][1][1]
        assert not outputs[3].any()
        assert not outputs[1, 1:].any()
    alone = layer(X[2:3, :7], masks=_of_example(masks, 2, 7, options), return_carry=True)
    carry, outputs = layer(X, masks=masks, seq_lengths=LENGTHS, return_carry=True)
    close(alone[1], outputs[2:3, :7])
    close(alone[0], jax.tree.map(lambda part: part[2:3], carry))


def _of_example(masks, index, steps, options):
    def cut(mask):
        return mask[:, index : index + 1] if mask.ndim == 3 else mask[index : index + 1]

    state = masks.state
    if options["variant"] == "zoneout":
        state = tuple(mask[index : index + 1, :steps] for mask in state)
    else:
        state = cut(state)
    return RecurrentMasks(cut(masks.inputs), state)


@one_face
@each_variant
def test_a_sequence_in_chunks_is_the_whole(face, kind, options):
    layer = face(kind, **BOTH, **options)
    masks = layer.masks(X, clone(KEY))
    whole = layer(X, masks=masks)
    carry, parts = None, []
    for start, stop in ((0, 4), (4, 5), (5, 11)):
        part = masks
        if options["variant"] == "zoneout":
            part = masks._replace(state=tuple(mask[:, start:stop] for mask in masks.state))
        carry, outputs = layer(X[:, start:stop], masks=part, initial_carry=carry, return_carry=True)
        parts.append(outputs)
    close(jnp.concatenate(parts, axis=1), whole)


@one_face
@each_variant
def test_traced_rates_are_right_at_0_and_1_in_one_compile(face, kind, options):
    layer, traces = face(kind, **BOTH, **options), []

    @jax.jit
    def run(rate, key):
        traces.append(rate)
        return layer.drawn(X, key, dropout=rate, recurrent_dropout=rate)

    for rate in (0.25, 1.0):
        traced = run(jnp.float32(rate), clone(KEY))
        static = layer.drawn(X, clone(KEY), dropout=rate, recurrent_dropout=rate)
        close(traced, static)
    assert len(traces) == 1
    close(run(jnp.float32(0), clone(KEY)), layer(X, deterministic=True, recurrent_dropout=0.0))


@each_face
@each_kind
def test_at_rate_1_nothing_of_the_inputs_is_seen(face, kind):
    layer = face(kind)
    outputs = layer.drawn(X, clone(KEY), dropout=1.0)
    close(outputs, layer(jnp.zeros_like(X)))
    assert (layer.drawn(X, clone(KEY), recurrent_dropout=1.0) != outputs).any()


@each_face
@each_kind
def test_zoneout_in_evaluation_is_the_mean(face, kind):
    """Of one step from a state that is not 0; c first, and h from what the mean of c is not."""
    layer = face(kind, recurrent_dropout=0.25, variant="zoneout")
    carry, _ = layer(X, deterministic=True, return_carry=True)
    x = X[:, :1]
    new, _ = layer(
        x, deterministic=True, recurrent_dropout=0.0, initial_carry=carry, return_carry=True
    )
    mixed, outputs = layer(x, deterministic=True, initial_carry=carry, return_carry=True)
    expected = jax.tree.map(lambda n, c: 0.75 * n + 0.25 * c, new, carry)
    close(mixed, expected)
    close(outputs[:, 0], jax.tree.leaves(expected)[-1])


def random_bits_inside_scans(jaxpr, inside=False):
    found = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        found += inside and name.startswith(("random_", "threefry"))
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += random_bits_inside_scans(inner, inside or name in ("scan", "while"))
    return found


@one_face
@each_variant
def test_no_random_bits_inside_the_loop(face, kind, options):
    layer = face(kind, **BOTH, **options)
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: layer.drawn(X, clone(KEY), params=p).sum()))
    assert random_bits_inside_scans(jaxpr(layer.params).jaxpr) == 0
    keys = jax.random.split(clone(KEY))
    drawing = jax.make_jaxpr(lambda keys: jax.lax.map(jax.random.bits, keys))(keys)
    assert random_bits_inside_scans(drawing.jaxpr) > 0


def test_masks_differ_from_sequence_to_sequence_and_call_to_call():
    layer = FACES["nnx"]("LSTM", **BOTH)
    first, second = (layer.masks(X, key) for key in jax.random.split(clone(KEY)))
    assert (first.state != second.state).any()
    assert len(np.unique(first.state, axis=0)) > 1
    assert first.inputs.shape == (4, FEATURES)
    assert first.state.shape == (4, HIDDEN)


@pytest.mark.parametrize("variant", ["variational", "no_memory_loss", "zoneout"])
def test_the_carried_state_is_never_scaled(variant):
    """Nothing but remembers, for 512 steps at a rate of .5: what is carried stays what it was."""
    layer = FACES["nnx"]("LSTM", recurrent_dropout=0.5, variant=variant)
    cell = layer.layer.cell
    for part in (cell.hi, cell.hf, cell.hg, cell.ho, cell.ii, cell.if_, cell.ig, cell.io):
        part.kernel[...] = jnp.zeros_like(part.kernel[...])
    cell.hf.bias[...] = jnp.full(HIDDEN, 20.0)
    cell.hi.bias[...] = jnp.full(HIDDEN, -20.0)
    carry = (jnp.ones((4, HIDDEN)), jnp.ones((4, HIDDEN)))
    (memory, _), _ = layer.layer(
        jnp.ones((4, 512, FEATURES)), rngs=clone(KEY), initial_carry=carry, return_carry=True
    )
    np.testing.assert_allclose(memory, 1, rtol=1e-5)


@each_face
def test_batches_of_any_rank(face):
    layer = face("GRU", **BOTH)
    x = jax.random.normal(jax.random.key(1), (2, 3, 9, FEATURES))
    masks = layer.masks(x, clone(KEY))
    assert masks.inputs.shape == (2, 3, FEATURES)
    flat = jax.tree.map(lambda m: m.reshape(6, -1), masks)
    outputs = layer(x, masks=masks)
    close(outputs.reshape(6, 9, HIDDEN), layer(x.reshape(6, 9, FEATURES), masks=flat))
    one = jax.tree.map(lambda m: m[0, 0], masks)
    close(layer(x[0, 0], masks=one), outputs[0, 0])


def test_an_nnx_layer_with_a_stream():
    layer = flax_spatialdrop.nnx.LSTM(
        FEATURES, HIDDEN, **BOTH, rngs=nnx.Rngs(0), dropout_rngs=nnx.Rngs(dropout=1)
    )
    assert (layer(X) != layer(X)).any()
    layer.eval()
    np.testing.assert_array_equal(layer(X), layer(X))
    np.testing.assert_array_equal(nnx.view(layer, deterministic=True)(X), layer(X))


REFUSED = [
    (
        "LSTM",
        {"variant": "gal"},
        {},
        ("variant must be 'variational', 'no_memory_loss' or 'zoneout': got variant='gal'"),
    ),
    (
        "SimpleRNN",
        {"per_gate": True},
        {},
        "per_gate=True draws a mask for each gate, and SimpleRNN has no gates",
    ),
    (
        "SimpleRNN",
        {"variant": "no_memory_loss"},
        {},
        (
            "variant='no_memory_loss' drops the new content that gates add to a memory, and "
            "SimpleRNN has neither; use 'variational' or 'zoneout'"
        ),
    ),
    (
        "GRU",
        {},
        {"dropout": 1.5},
        "rate is the probability to drop and must be in [0, 1]: got rate=1.5",
    ),
    (
        "GRU",
        {},
        {"seq_lengths": jnp.array([1, 2, 3, 12])},
        ("seq_lengths must be from 0 to the 11 steps of the sequence: got from 1 to 12"),
    ),
    (
        "GRU",
        {},
        {"seq_lengths": jnp.ones(3, int)},
        ("seq_lengths needs one length for each sequence, of shape (4,): got shape (3,)"),
    ),
    (
        "LSTM",
        {},
        {"initial_carry": jnp.ones((4, HIDDEN))},
        "initial_carry must have 2 of shape (4, 7): got shapes ((4, 7),)",
    ),
    (
        "GRU",
        {},
        {"initial_carry": jnp.ones((3, HIDDEN))},
        "initial_carry must have 1 of shape (4, 7): got shapes ((3, 7),)",
    ),
    (
        "GRU",
        {"dropout": 0.5},
        {"masks": RecurrentMasks(jnp.ones((4, 6), bool))},
        "masks.inputs must have the shape (4, 5): got (4, 6)",
    ),
]


@each_face
@pytest.mark.parametrize(("kind", "options", "call", "message"), REFUSED)
def test_what_is_refused(face, kind, options, call, message):
    with pytest.raises(ValueError, match=exactly(message)):
        face(kind, **options)(X, **call)


@each_face
def test_types_that_are_refused(face):
    layer = face("GRU")
    with pytest.raises(TypeError, match="takes inputs of a floating dtype: got dtype int32"):
        layer(X.astype(int))
    with pytest.raises(TypeError, match="seq_lengths must be whole numbers: got dtype float32"):
        layer(X, seq_lengths=jnp.ones(4))
    with pytest.raises(TypeError, match="masks must be RecurrentMasks, as sample_masks returns"):
        layer(X, masks=jnp.ones((4, 5), bool), dropout=0.5)
    with pytest.raises(ValueError, match=r"takes inputs \[\*batch, time, features\]: got shape"):
        layer(X[0, 0])


def test_no_key_and_active():
    with pytest.raises(Exception, match='needs PRNG for "dropout"'):
        FACES["linen"]("LSTM", **BOTH)(X, deterministic=False)
    with pytest.raises(ValueError, match="LSTM draws a mask and needs a key: got no rngs"):
        FACES["nnx"]("LSTM", **BOTH)(X, deterministic=False)


def test_recurrent_masks():
    mask = recurrent_masks(clone(KEY), 0.3, 8, 16)
    np.testing.assert_array_equal(mask, sample_mask(clone(KEY), 0.3, (8, 16)))
    assert recurrent_masks(clone(KEY), 0.3, 8, 16, GATES["LSTM"]).shape == (4, 8, 16)
    with pytest.raises(TypeError, match="the shape of a recurrent mask must hold whole numbers"):
        recurrent_masks(clone(KEY), 0.3, 8, 1.5)


def test_recurrent_dropout_is_dropout():
    x = jax.random.normal(jax.random.key(1), (3, 4))
    np.testing.assert_array_equal(
        recurrent_dropout(clone(KEY), x, 0.3), dropout(clone(KEY), x, 0.3)
    )


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0, jnp.float32(0.25)])
def test_zoneout(rate):
    x, previous = jnp.ones((40, 50)), jnp.zeros((40, 50))
    y = zoneout(clone(KEY), x, rate, previous=previous)
    mask = sample_mask(clone(KEY), rate, x.shape)
    np.testing.assert_array_equal(y, np.where(mask, 1, 0))
    mean = zoneout(None, x, rate, previous=previous, deterministic=True)
    np.testing.assert_allclose(mean, 1 - np.float32(rate), rtol=1e-6)


def test_zoneout_lets_nothing_of_what_it_leaves_through():
    mask = np.asarray(sample_mask(clone(KEY), 0.5, (30,)))
    new, old = jnp.where(mask, 1.0, jnp.nan), jnp.where(mask, jnp.nan, 2.0)
    y, pullback = jax.vjp(lambda n, o: zoneout(clone(KEY), n, 0.5, previous=o), new, old)
    np.testing.assert_array_equal(y, np.where(mask, 1, 2))
    for gradient, kept in zip(pullback(y), (mask, ~mask), strict=True):
        np.testing.assert_array_equal(gradient != 0, kept)


def test_zoneout_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="takes a previous state of the shape of x: got"):
        zoneout(KEY, jnp.ones(3), 0.5, previous=jnp.ones(4))
    with pytest.raises(TypeError, match="takes a previous state of the dtype of x: got float16"):
        zoneout(KEY, jnp.ones(3), 0.5, previous=jnp.ones(3, jnp.float16))
