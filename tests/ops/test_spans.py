"""Masks of spans by an independent rule, their law, and SpecAugment made of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone
from scipy import stats

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import span_mask, spec_augment

from ..catalogue import FACES
from ..errors import exactly

KEY = jax.random.key(3)
LENGTHS = np.array([12, 5, 0, 9])
X = np.random.default_rng(0).normal(size=(4, 12, 6)).astype(np.float32)
OPTIONS = {"max_time_width": 5, "max_time_ratio": 0.5, "max_freq_width": 3}
"""The masks of both axes drop something in each sample of X that is long enough."""

each_face = pytest.mark.parametrize("face", FACES)


def expected_spans(key, lengths, max_length, num, max_width, max_ratio=1.0, min_width=0):
    """Drops one span after another, at the places that the documented draws give."""
    width_key, start_key = jax.random.split(clone(key))
    widest = np.minimum(max_width, (np.float32(max_ratio) * np.float32(lengths)).astype(int))
    lowest, shape = np.minimum(min_width, widest), (*lengths.shape, num)
    draw = partial(jax.random.randint, dtype=np.int32)
    width = np.asarray(draw(width_key, shape, lowest[..., None], widest[..., None] + 1))
    start = np.asarray(draw(start_key, shape, 0, lengths[..., None] - width + 1))
    mask = np.ones((*lengths.shape, max_length), bool)
    for index in np.ndindex(shape):
        mask[index[:-1]][start[index] : start[index] + width[index]] = False
    return mask


def expected_masks(key, lengths, x=X):
    """Returns the masks of time and of frequency, for OPTIONS."""
    time_key, freq_key = jax.random.split(clone(key))
    time = expected_spans(time_key, lengths, x.shape[1], 2, 5, 0.5)
    freq = expected_spans(freq_key, np.full(len(x), x.shape[2]), x.shape[2], 2, 3)
    return time[:, :, None], freq[:, None, :]


def expected(key, lengths, x=X, fill=0.0):
    time, freq = expected_masks(key, lengths, x)
    is_padding = np.arange(x.shape[1])[:, None] >= lengths[:, None, None]
    return np.where(time & freq | is_padding, x, fill)


def face_of(face, **options):
    """Returns SpecAugment as f(key, x, lengths), by the function or a module."""
    options = OPTIONS | options
    if face == "function":
        return lambda key, x, lengths=None: spec_augment(key, x, lengths=lengths, **options)
    layer = getattr(flax_spatialdrop, face).SpecAugment(**options)
    if face == "linen":
        return lambda key, x, lengths=None: layer.apply({}, x, False, key, lengths=lengths)
    return lambda key, x, lengths=None: layer(x, rngs=key, lengths=lengths)


@pytest.mark.parametrize(
    "options",
    [
        {"num": 1, "max_width": 4},
        {"num": 3, "max_width": 100, "max_ratio": 0.4},
        {"num": 2, "max_width": 4, "min_width": 3},
    ],
    ids=str,
)
def test_spans_are_those_of_the_documented_draws(options):
    """Eager, jitted with traced widths and lengths of a small dtype, and batched in two axes."""
    mask = expected_spans(KEY, LENGTHS, 12, **options)
    np.testing.assert_array_equal(span_mask(clone(KEY), LENGTHS, 12, **options), mask)
    traced = {name: jnp.asarray(value) for name, value in options.items() if name != "num"}

    @jax.jit
    def draw(key, lengths, traced):
        return span_mask(key, lengths, 12, num=options["num"], **traced)

    np.testing.assert_array_equal(draw(clone(KEY), LENGTHS.astype(np.uint8), traced), mask)
    square = span_mask(clone(KEY), LENGTHS.reshape(2, 2), 12, **options)
    np.testing.assert_array_equal(square.reshape(4, 12), mask)
    assert mask[np.arange(12) >= LENGTHS[:, None]].all()  # padding is kept
    assert not mask.all()


def test_a_single_sequence_and_what_needs_no_key():
    assert span_mask(clone(KEY), 5, 9, num=2, max_width=3).shape == (9,)
    for none in ({"num": 0, "max_width": 3}, {"num": 1, "max_width": 0}):
        assert span_mask(None, LENGTHS, 12, **none).all()
    assert span_mask(None, LENGTHS, 12, num=1, max_width=3, max_ratio=0).all()
    assert span_mask(
        clone(KEY), LENGTHS, 12, num=1, max_width=3, max_ratio=jnp.float32("nan")
    ).all()


def dropped_by_one(length, widest, min_width=0):
    """The probability that one span drops each position: widths and starts are uniform."""
    widths = np.arange(min_width, widest + 1)
    found = np.zeros(length)
    for width in widths:
        starts = length - width + 1
        for start in range(starts):
            found[start : start + width] += 1 / (starts * len(widths))
    return found


@pytest.mark.parametrize(("num", "min_width"), [(1, 0), (3, 0), (2, 4)])
def test_how_often_each_position_is_dropped(num, min_width):
    """2e5 sequences of each of two lengths; false alarms at 1e-9 for all positions together."""
    samples, lengths, widest = 200_000, np.array([9, 6]), 5
    keys = jax.random.split(jax.random.key(num), samples)
    options = {"num": num, "max_width": widest, "min_width": min_width}
    mask = np.asarray(jax.vmap(lambda key: span_mask(key, lengths, 9, **options))(keys))
    for i, length in enumerate(lengths):
        one = dropped_by_one(length, widest, min_width)
        assert one.mean() == pytest.approx((min_width + widest) / (2 * length))
        probability = 1 - (1 - one) ** num
        assert probability.mean() <= 1 - (1 - one.mean()) ** num + 1e-12
        count = (~mask[:, i, :length]).sum(0)
        low, high = stats.binom.interval(1 - 1e-9 / 15, samples, probability)
        assert (low <= count).all()
        assert (count <= high).all()


@each_face
def test_hides_what_both_masks_hide(face):
    for lengths in (None, LENGTHS):
        f = face_of(face)
        y = expected(KEY, np.full(4, 12) if lengths is None else lengths)
        np.testing.assert_array_equal(f(clone(KEY), X, lengths), y)
        np.testing.assert_array_equal(jax.jit(f)(clone(KEY), X, lengths), y)
        assert (y != X).any(axis=(1, 2)).sum() >= 3


def test_traced_widths_compile_once():
    compiled = []

    @jax.jit
    def f(width, ratio):
        compiled.append(1)
        options = {"max_time_width": width, "max_freq_width": width, "max_time_ratio": ratio}
        return spec_augment(clone(KEY), X, lengths=LENGTHS, **options)

    for width, ratio in ((5, 0.5), (2, 1.0)):
        options = {"max_time_width": width, "max_freq_width": width, "max_time_ratio": ratio}
        y = spec_augment(clone(KEY), X, lengths=LENGTHS, **options)
        np.testing.assert_array_equal(f(width, ratio), y)
    assert len(compiled) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "complex64"])
def test_the_same_masks_for_any_dtype(dtype):
    with jax.enable_x64(True):
        x = X.astype(dtype)
        y = spec_augment(clone(KEY), x, lengths=LENGTHS, **OPTIONS)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, expected(KEY, LENGTHS, x).astype(dtype))


def test_a_vector_fills_and_learns_what_is_hidden():
    """The gradient of x is 1 where it is kept, and that of the vector counts the hidden values."""
    fill, y = jnp.arange(6.0) + 10, None

    def f(x, fill):
        return spec_augment(clone(KEY), x, lengths=LENGTHS, fill=fill, **OPTIONS)

    y, pullback = jax.vjp(f, X, fill)
    np.testing.assert_array_equal(y, expected(KEY, LENGTHS, fill=np.asarray(fill)))
    of_x, of_fill = pullback(jnp.ones_like(y))
    is_hidden = expected(KEY, LENGTHS, np.ones_like(X)) == 0
    np.testing.assert_array_equal(of_x, 1.0 - is_hidden)
    np.testing.assert_array_equal(of_fill, is_hidden.sum((0, 1)))
    jax.test_util.check_grads(f, (jnp.asarray(X), fill), order=2, modes=("fwd", "rev"), eps=1.0)


def test_the_mean_is_that_of_what_the_model_sees():
    """It counts neither padding nor hidden values, so NaNs among them reach nothing else."""
    is_hidden = expected(KEY, LENGTHS, np.ones_like(X)) == 0
    is_padding = np.broadcast_to(np.arange(12)[:, None] >= LENGTHS[:, None, None], X.shape)
    x = np.where(is_hidden, np.float32(np.nan), X)

    def f(x):
        return spec_augment(clone(KEY), x, lengths=LENGTHS, fill="mean", **OPTIONS)

    y, pullback = jax.vjp(f, x)
    for sample, hidden, padding, found in zip(X, is_hidden, is_padding, np.asarray(y), strict=True):
        seen = ~(hidden | padding)
        mean = sample[seen].mean() if seen.any() else 0
        np.testing.assert_allclose(found, np.where(hidden, mean, sample), rtol=1e-5)
    assert jnp.isfinite(pullback(jnp.ones_like(y))[0]).all()


def test_backward_keeps_the_two_masks():
    def residuals(**options):
        f = lambda x: spec_augment(clone(KEY), x, **OPTIONS, **options)  # noqa: E731
        return [(r.dtype, r.shape) for r in jax.tree.leaves(jax.vjp(f, X)[1])]

    masks = [(jnp.bool_, (4, 12, 1)), (jnp.bool_, (4, 1, 6))]
    assert residuals() == residuals(fill=np.ones(6, np.float32)) == masks
    assert residuals(lengths=LENGTHS) == [*masks, (jnp.int32, (4,))]


def test_vmap_and_a_scan_with_remat_equal_a_loop():
    keys = jax.random.split(jax.random.key(2), 3)
    f = face_of("function")
    looped = jnp.stack([f(key, X, LENGTHS) for key in keys])
    mapped = jax.vmap(f, (0, None, None))(clone(keys), X, LENGTHS)
    np.testing.assert_array_equal(mapped, looped)
    body = jax.checkpoint(lambda c, key: (c, f(key, X, LENGTHS)))
    np.testing.assert_array_equal(jax.lax.scan(body, 0, clone(keys))[1], looped)


def test_symbolic_sizes():
    """An exported program takes any batch and any number of frames."""
    batch, frames = jax.export.symbolic_shape("b, t")
    x = jax.ShapeDtypeStruct((batch, frames, 6), np.float32)
    lengths = jax.ShapeDtypeStruct((batch,), np.int32)
    f = face_of("function")
    exported = jax.export.export(jax.jit(f))(clone(KEY), x, lengths)
    y = exported.call(clone(KEY), X, LENGTHS.astype(np.int32))
    np.testing.assert_array_equal(y, expected(KEY, LENGTHS))


@each_face
def test_nothing_to_hide_returns_x_and_needs_no_key(face):
    x = jnp.asarray(X)
    assert face_of(face, num_time_masks=0, num_freq_masks=0)(None, x, LENGTHS) is x
    assert face_of(face, max_time_width=0, max_freq_width=0)(None, x) is x


@pytest.mark.parametrize("face", ["linen", "nnx"])
def test_masks_and_fill_at_the_call(face):
    x, fill = jnp.asarray(X), np.arange(6, dtype=np.float32)
    layer = getattr(flax_spatialdrop, face).SpecAugment(**OPTIONS)
    if face == "linen":

        def call(method="__call__", deterministic=False, rngs=None, **options):
            options |= {"deterministic": deterministic, "rng": rngs, "method": method}
            return layer.apply({}, x, **options)
    else:

        def call(method="__call__", **options):
            return getattr(layer, method)(x, **options)

    masks = call("sample_mask", rngs=clone(KEY), lengths=LENGTHS)
    for found, theirs in zip(masks, expected_masks(KEY, LENGTHS), strict=True):
        np.testing.assert_array_equal(found, theirs)
    y = expected(KEY, LENGTHS, fill=fill)
    np.testing.assert_array_equal(call(rngs=clone(KEY), lengths=LENGTHS, fill=fill), y)
    np.testing.assert_array_equal(call(mask=masks, lengths=LENGTHS, fill=fill), y)
    assert call(deterministic=True, mask=masks) is x
    assert all(mask.all() for mask in call("sample_mask", deterministic=True))


def test_streams_and_a_summary():
    layer, key = flax_spatialdrop.linen.SpecAugment(**OPTIONS, deterministic=False), clone(KEY)
    (site,) = flax_spatialdrop.linen.summarize(layer, X, rngs={"dropout": key}).sites
    assert (site.module, site.rates, site.active) == ("SpecAugment", (1.0,), True)
    assert site.kept_bytes == 4 * (12 + 6)
    layer = flax_spatialdrop.nnx.SpecAugment(**OPTIONS, rngs=nnx.Rngs(0))
    summary = flax_spatialdrop.nnx.summarize(layer, X)
    assert summary.remarks == ()
    (site,) = flax_spatialdrop.nnx.summarize(layer, X, mask=layer.sample_mask(X)).sites
    assert site.stream == "a mask"


def test_a_key_used_twice_is_caught():
    for f in (lambda key: span_mask(key, 9, 9, num=1, max_width=3), lambda k: spec_augment(k, X)):
        key = jax.random.key(11)
        f(key)
        with pytest.raises(jax.errors.KeyReuseError):
            f(key)


SPAN_ERRORS = [
    ({"lengths": [3]}, TypeError, "lengths must be a JAX or NumPy array: got [3]"),
    ({"lengths": np.ones(3)}, TypeError, "lengths must have an integer dtype: got dtype float64"),
    ({"lengths": 10}, ValueError, "lengths must be from 0 to max_length=9: got 10"),
    ({"max_length": 9.0}, TypeError, "max_length must be an integer: got 9.0"),
    ({"num": -1}, ValueError, "num must be at least 0: got -1"),
    ({"max_width": -1}, ValueError, "max_width must be at least 0: got -1"),
    (
        {"max_width": 0.5},
        TypeError,
        "max_width must be an integer or an integer scalar array: got 0.5",
    ),
    (
        {"min_width": np.ones(2, int)},
        ValueError,
        "min_width must be one integer or a scalar array: got an array of shape (2,)",
    ),
    ({"max_ratio": 1.5}, ValueError, "max_ratio must be in [0, 1]: got max_ratio=1.5"),
    (
        {"max_ratio": "1"},
        TypeError,
        "max_ratio must be a number or a scalar array: got '1'",
    ),
    (
        {"key": None},
        ValueError,
        "key must be a JAX PRNG key where anything is drawn: got key=None; pass one, such as "
        "jax.random.key(0)",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), SPAN_ERRORS, ids=lambda v: str(v)[:30])
def test_errors_of_span_mask(change, error, message):
    given = {"key": clone(KEY), "lengths": 9, "max_length": 9, "num": 1, "max_width": 3} | change
    with pytest.raises(error, match=exactly(message)):
        span_mask(given.pop("key"), given.pop("lengths"), given.pop("max_length"), **given)


ERRORS = [
    (
        {"x": X[0, 0]},
        ValueError,
        "x must be [*batch, time, frequency]: got x.shape=(6,)",
    ),
    (
        {"x": X.astype(int)},
        TypeError,
        "x must have a floating or complex dtype: got dtype int64",
    ),
    (
        {"x": X[0], "lengths": 13},
        ValueError,
        "lengths must be from 0 to 12, the length of x: got 13",
    ),
    (
        {"lengths": np.arange(3)},
        ValueError,
        "lengths must have the shape (4,), that of x without its last two axes: "
        "got lengths.shape=(3,)",
    ),
    ({"num_time_masks": -1}, ValueError, "num_time_masks must be at least 0: got -1"),
    ({"num_freq_masks": 1.0}, TypeError, "num_freq_masks must be an integer: got 1.0"),
    ({"max_freq_width": -2}, ValueError, "max_freq_width must be at least 0: got -2"),
    ({"max_time_ratio": -1}, ValueError, "max_time_ratio must be in [0, 1]: got max_time_ratio=-1"),
    (
        {"fill": np.ones(5)},
        ValueError,
        "fill must be a number, or one number for each of the 6 frequencies of x: "
        "got fill=an array of shape (5,) and dtype float64",
    ),
    (
        {"fill": "max"},
        ValueError,
        "fill must be a real number, one for each frequency, or 'mean': got 'max'",
    ),
]


@each_face
@pytest.mark.parametrize(("change", "error", "message"), ERRORS, ids=lambda v: str(v)[:30])
def test_errors(face, change, error, message):
    options = {"x": X, "lengths": None} | change
    x, lengths = options.pop("x"), options.pop("lengths")
    with pytest.raises(error, match=exactly(message)):
        face_of(face, **options)(clone(KEY), x, lengths)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            np.ones((4, 12, 1), bool),
            TypeError,
            "mask must be a pair, the mask of time and the mask of frequency, as sample_mask "
            "returns them: got an array of shape (4, 12, 1) and dtype bool",
        ),
        (
            (np.ones((4, 12, 1), bool), np.ones((4, 1, 6))),
            TypeError,
            "mask[1] must be a bool array, True where a value is kept: got dtype float64",
        ),
        (
            (np.ones((4, 12, 1), bool), np.ones((4, 1, 5), bool)),
            ValueError,
            "mask must be a pair of the shapes (4, 12, 1) and (4, 1, 6), for time and frequency: "
            "got (4, 12, 1) and (4, 1, 5) for x.shape=(4, 12, 6)",
        ),
    ],
)
def test_masks_that_do_not_fit(mask, error, message):
    with pytest.raises(error, match=exactly(message)):
        flax_spatialdrop.nnx.SpecAugment()(X, mask=mask)
