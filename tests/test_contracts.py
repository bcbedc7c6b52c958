"""The contracts of all regularizers, tested with one case of each mechanism of the catalogue.

test_programs.py shows that the other cases, and all modules, run the same programs.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals
from jax.random import clone
from scipy import stats

from flax_spatialdrop import apply_mask, sample_mask

from .catalogue import BERNOULLI, FACES, REPRESENTATIVES

FALSE_ALARM = 1e-9  # the probability that a statistical test fails although the code is right
KEY = jax.random.key(7)

pytestmark = pytest.mark.parametrize("case", REPRESENTATIVES, ids=lambda case: case.id)
each_face = pytest.mark.parametrize("face", FACES)


def ones(case, dtype=jnp.float32):
    return jnp.ones(case.shape, dtype)


RATES = (0.0, 0.25, 0.5, 1.0)


def rates_of(case, rates=RATES):
    return [rate for rate in rates if rate < 1 or not case.kind.needs_rate_below_1]


def slope_and_offset(case, rate, key=KEY):
    return case.slope_and_offset(clone(key), rate)


def test_is_the_affine_map_of_its_mask(case):
    x = jax.random.normal(jax.random.key(1), case.shape)
    y = case.face()(clone(KEY), x, 0.3)
    slope, offset = slope_and_offset(case, 0.3)
    np.testing.assert_allclose(y, slope * np.asarray(x) + offset, rtol=1e-6, atol=1e-6)
    assert_is(case, np.asarray(y)[slope == 0], offset[slope == 0])


def test_equals_its_mask_applied_bit_for_bit(case):
    if case.kind != BERNOULLI:
        pytest.skip("not what apply_mask does")
    x = jax.random.normal(jax.random.key(1), case.shape)
    y = case.face()(clone(KEY), x, 0.3)
    expected = apply_mask(x, sample_mask(clone(KEY), 0.3, case.noise_shape), 0.3)
    np.testing.assert_array_equal(y, expected)


def test_jit_equals_eager(case):
    f = case.face()
    x = jax.random.normal(jax.random.key(1), case.shape)
    eager = f(clone(KEY), x, 0.3)
    np.testing.assert_array_equal(jax.jit(lambda k, x: f(k, x, 0.3))(clone(KEY), x), eager)


def test_traced_rate_equals_number_in_one_compile(case):
    f = case.face()
    x = jax.random.normal(jax.random.key(1), case.shape)
    traces = []

    @jax.jit
    def traced(key, x, rate):
        traces.append(rate)
        return f(key, x, rate)

    for rate in rates_of(case):
        y, by_number = traced(clone(KEY), x, jnp.float32(rate)), f(clone(KEY), x, rate)
        if case.kind.is_solved:
            np.testing.assert_allclose(y, by_number, rtol=1e-5)
        else:
            np.testing.assert_array_equal(y, by_number)
    assert len(traces) == 1


def test_vmap_over_keys_equals_loop(case):
    f = case.face()
    x = jax.random.normal(jax.random.key(1), case.shape)
    keys = jax.random.split(jax.random.key(2), 3)
    mapped = jax.vmap(lambda k: f(k, x, 0.5))(clone(keys))
    looped = jnp.stack([f(key, x, 0.5) for key in keys])
    np.testing.assert_array_equal(mapped, looped)


def test_vmap_over_x_shares_the_mask(case):
    f = case.face()
    x = jnp.ones((2, *case.shape))
    mapped = jax.vmap(lambda x: f(clone(KEY), x, 0.5))(x)
    np.testing.assert_array_equal(mapped, jnp.stack([f(clone(KEY), ones(case), 0.5)] * 2))


def test_scan_and_remat_equal_eager(case):
    f = case.face()
    keys = jax.random.split(jax.random.key(2), 3)
    x = jnp.ones(case.shape)
    body = jax.checkpoint(lambda x, key: (x, f(key, x, 0.5)))
    _, scanned = jax.lax.scan(body, x, clone(keys))
    np.testing.assert_array_equal(scanned, jnp.stack([f(key, x, 0.5) for key in keys]))


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_gradient_is_the_slope(case, rate):
    if not rates_of(case, [rate]):
        pytest.skip("takes no rate of 1")
    f = case.face()
    dx = jax.grad(lambda x: f(clone(KEY), x, rate).sum())(ones(case))
    assert_is(case, dx, slope_and_offset(case, rate)[0])


def assert_is(case, actual, expected):
    """Checks that values are equal: exactly for dropout, else to 5e-6, with the same zeros."""
    np.testing.assert_allclose(actual, expected, rtol=0 if case.kind == BERNOULLI else 5e-6)


def test_gradient_at_a_traced_rate(case):
    f = case.face()
    grad = jax.jit(jax.grad(lambda x, rate: f(clone(KEY), x, rate).sum(), argnums=(0, 1)))
    for rate in rates_of(case, (0.0, 0.5, 1.0)):
        dx, drate = grad(ones(case), jnp.float32(rate))
        assert_is(case, dx, slope_and_offset(case, rate)[0])
        assert drate == 0


def test_forward_and_second_derivatives(case):
    f = case.face()

    def loss(x):
        return (f(clone(KEY), x, 0.5) ** 3).sum()

    x = ones(case)
    slope, offset = slope_and_offset(case, 0.5)
    expected = 6 * (slope + offset) * slope**2
    _, hvp = jax.jvp(jax.grad(loss), (x,), (x,))
    np.testing.assert_allclose(hvp, expected, rtol=3e-6, atol=1e-6)
    _, vhp = jax.vjp(jax.grad(loss), x)
    np.testing.assert_allclose(vhp(x)[0], expected, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_keeps_dtype_and_mask_in_every_dtype(case, dtype):
    y = case.face()(clone(KEY), ones(case, dtype), 0.25)
    assert y.dtype == dtype
    assert y.shape == case.shape
    slope, offset = slope_and_offset(case, 0.25)
    last_bit = float(jnp.finfo(dtype).eps)
    y = np.asarray(y).astype(np.promote_types(np.asarray(y).dtype, np.float32))
    np.testing.assert_allclose(y, slope + offset, rtol=last_bit, atol=last_bit)


def test_keeps_the_mask_under_x64(case):
    slope, offset = slope_and_offset(case, 0.3)
    with jax.enable_x64(True):
        y = case.face()(clone(KEY), ones(case, jnp.float64), 0.3)
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(np.asarray(y), slope + offset, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rate", [0.5, 1.0, jnp.float32(0.5), jnp.float32(1)])
def test_what_is_dropped_is_gone(case, rate):
    """A NaN in a dropped value does not reach y, and a NaN in its cotangent does not reach x."""
    if not rates_of(case, [float(rate)]):
        pytest.skip("takes no rate of 1")
    f = case.face()
    slope, offset = slope_and_offset(case, float(rate))
    if slope.all() and slope.size:
        pytest.skip("drops nothing")
    for bad in (np.inf, -np.inf, np.nan):
        x = jnp.where(slope != 0, jnp.ones(case.shape), np.float32(bad))
        y, pullback = jax.vjp(lambda x: f(clone(KEY), x, rate), x)
        (dx,) = pullback(x)
        np.testing.assert_allclose(y, slope + offset, rtol=1e-6, atol=1e-6)
        assert_is(case, dx, slope)


def test_backward_keeps_the_mask_or_the_key_and_nothing_else(case):
    f = case.face()
    residuals = jax.tree.leaves(jax.vjp(lambda x: f(clone(KEY), x, 0.3), ones(case))[1])
    assert [(r.dtype, r.shape) for r in residuals] == case.residuals()


def test_backward_keeps_two_scalars_more_of_a_traced_rate(case):
    f = case.face()
    residuals = jax.tree.leaves(jax.vjp(lambda x, r: f(clone(KEY), x, r), ones(case), 0.3)[1])
    large = [r for r in residuals if r.shape != () or r.dtype == jnp.bool_]
    scalars = [r for r in residuals if r.shape == () and r.dtype != jnp.bool_]
    assert [(r.dtype, r.shape) for r in large] == case.residuals()
    assert len(scalars) <= 2


def test_output_has_a_name_for_remat_policies(case, capsys):
    f = case.face()
    saved = {}
    for name in ("flax_spatialdrop", "another"):
        policy = jax.checkpoint_policies.save_only_these_names(name)
        # The inner sine makes sure that the saved value is not an argument of the function.
        fn = jax.checkpoint(lambda x: jnp.sin(f(clone(KEY), jnp.sin(x), 0.5)).sum(), policy=policy)
        print_saved_residuals(fn, ones(case))
        saved[name] = capsys.readouterr().out
    assert "output of" in saved["flax_spatialdrop"]
    assert "output of" not in saved["another"]


def test_drops_at_the_rate_and_scales_so_that_the_mean_is_kept(case):
    """Exact binomial bounds for at least 1e5 coin flips, with false alarms at 1e-9 per case."""
    flips = math.prod(case.noise_shape)
    if flips == 0 or not case.kind.is_bernoulli:
        pytest.skip("no coins are flipped")
    runs = -(-100_000 // flips)
    keys = jax.random.split(jax.random.key(3), runs)
    rate = 0.3
    y = jax.jit(jax.vmap(lambda key: case.face()(key, ones(case), rate)))(keys)
    slopes, offsets = case.kind.affine(np.array([False, True]), rate, **case.options)
    dropped, kept = slopes + offsets
    is_kept = np.isclose(y, kept, rtol=1e-6)
    assert (is_kept | np.isclose(y, dropped, rtol=1e-6)).all()
    kept_flips = int(is_kept.sum()) * flips // math.prod(case.shape)
    low, high = stats.binom.interval(1 - FALSE_ALARM, runs * flips, 1 - rate)
    assert low <= kept_flips <= high


@each_face
def test_number_0_returns_x_and_1_drops_all_it_can(case, face):
    x = ones(case)

    def call(rate):
        key = clone(KEY) if rate and case.kind.draws_at_1 else None
        if face == "function":
            return case.function(key, x, rate, **case.options)
        layer = case.module(face)(rate, **case.options)
        return layer.apply({}, x, False, key) if face == "linen" else layer(x, rngs=key)

    assert call(0.0) is x
    for rate in rates_of(case, [1.0]):
        slope, offset = slope_and_offset(case, rate)
        np.testing.assert_array_equal(call(rate), (slope + offset).astype(np.float32))


@each_face
def test_a_key_used_twice_is_caught(case, face):
    f = case.face(face)
    key = jax.random.key(11)
    f(key, ones(case), 0.5)
    with pytest.raises(jax.errors.KeyReuseError):
        f(key, ones(case), 0.5)

    def twice(key, x):
        return f(key, f(key, x, 0.5), 0.5)

    with pytest.raises(jax.errors.KeyReuseError):
        jax.jit(twice)(jax.random.key(12), ones(case))


def test_a_gradient_uses_its_key_once(case):
    f = case.face()
    dx = jax.grad(lambda x: f(jax.random.key(13), x, 0.5).sum())(ones(case))
    assert_is(case, dx, slope_and_offset(case, 0.5, jax.random.key(13))[0])


@each_face
def test_legacy_and_numpy_input(case, face):
    legacy = jax.random.key_data(clone(KEY))
    y = case.face(face)(legacy, np.ones(case.shape, np.float32), 0.3)
    assert isinstance(y, jax.Array)
    slope, offset = slope_and_offset(case, 0.3)
    np.testing.assert_allclose(y, slope + offset, rtol=1e-6, atol=1e-6)


@each_face
def test_integer_input_is_refused_at_every_rate(case, face):
    for rate in (0.0, 0.5, 1.0):
        with pytest.raises(TypeError, match=r"a floating or complex dtype.* got dtype int32"):
            case.face(face)(clone(KEY), ones(case, jnp.int32), rate)


@each_face
def test_rates_outside_0_and_1_are_refused(case, face):
    for rate in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"must be in \[0, 1\]: got rate={rate}"):
            case.face(face)(clone(KEY), ones(case), rate)
