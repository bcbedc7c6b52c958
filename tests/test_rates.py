import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_spatialdrop import (
    apply_mask,
    dropout,
    linear_rates,
    sample_mask,
    spatial_dropout_1d,
)
from flax_spatialdrop._rates import keep_probability, scale_of

from .catalogue import CASES, FACES
from .errors import exactly

KEY = jax.random.key(0)


@given(st.floats(0, 1))
def test_a_number_is_subtracted_in_double_precision(rate):
    keep = keep_probability(rate)
    assert keep.dtype == np.float32
    assert keep == np.float32(1.0 - rate)


@given(st.floats(0, 1, width=32))
def test_an_array_is_subtracted_in_float32(rate):
    keep = keep_probability(jnp.float32(rate))
    assert keep.dtype == jnp.float32
    assert keep == np.float32(1) - np.float32(rate)


@pytest.mark.parametrize(
    ("rate", "keep"), [(-0.5, 1), (1.5, 0), (np.nan, 0), (np.inf, 0), (-np.inf, 1), (0, 1), (1, 0)]
)
def test_an_array_is_clipped_and_nan_drops_everything(rate, keep):
    assert keep_probability(jnp.float32(rate)) == keep
    y = jax.jit(dropout)(jax.random.clone(KEY), jnp.ones((5,)), jnp.float32(rate))
    np.testing.assert_array_equal(y, np.full(5, keep, np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32"])
def test_an_array_of_any_real_dtype(dtype):
    mask = sample_mask(jax.random.key(1), jnp.ones((), dtype), (4,))
    np.testing.assert_array_equal(mask, np.zeros(4, bool))


@pytest.mark.parametrize("rate", [np.float32(0.5), np.float64(0.5), np.array(0.5)])
def test_numpy_numbers(rate):
    mask = sample_mask(jax.random.key(1), rate, (100,))
    np.testing.assert_array_equal(mask, sample_mask(jax.random.key(1), 0.5, (100,)))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.9, 1 - 1e-9])
def test_scale_is_a_float32_division(rate):
    keep = keep_probability(rate)
    assert scale_of(keep) == np.float32(1) / keep
    assert scale_of(keep).dtype == np.float32
    assert scale_of(jnp.float32(keep)) == scale_of(keep)


def test_scale_is_1_where_nothing_is_kept():
    assert scale_of(np.float32(0)) == 1
    assert scale_of(jnp.float32(0)) == 1


BAD = [
    (-0.3, ValueError, "rate is the probability to drop and must be in [0, 1]: got rate=-0.3"),
    (1.5, ValueError, "rate is the probability to drop and must be in [0, 1]: got rate=1.5"),
    (
        float("nan"),
        ValueError,
        "rate is the probability to drop and must be in [0, 1]: got rate=nan",
    ),
    (
        np.ones(3),
        ValueError,
        "rate must be one number or a scalar array, the same for all of x: got an array of shape "
        "(3,)",
    ),
    (
        "0.5",
        TypeError,
        "rate is the probability to drop and must be a number or a scalar array: got '0.5'",
    ),
    (
        True,
        TypeError,
        "rate is the probability to drop and must be a number or a scalar array: got True",
    ),
    (
        None,
        TypeError,
        "rate is the probability to drop and must be a number or a scalar array: got None",
    ),
    (np.array(True), TypeError, "rate must be a real number: got an array of dtype bool"),
    (np.array(1j), TypeError, "rate must be a real number: got an array of dtype complex128"),
]


@pytest.mark.parametrize(("rate", "error", "message"), BAD)
def test_bad_rates(rate, error, message):
    x, mask = jnp.ones(3), jnp.ones(3, bool)
    for call in (
        lambda: dropout(KEY, x, rate),
        lambda: sample_mask(KEY, rate, (3,)),
        lambda: apply_mask(x, mask, rate),
    ):
        with pytest.raises(error, match=exactly(message)):
            call()


def test_linear_rates_by_both_conventions():
    """The equations of the papers, in which l goes from 1 to L."""
    depth, last = 24, 0.2
    huang = [last * block / depth for block in range(1, depth + 1)]
    np.testing.assert_allclose(linear_rates(last, depth), huang, rtol=1e-15)
    timm = np.linspace(0, last, depth)
    np.testing.assert_allclose(linear_rates(last, depth, convention="timm"), timm, rtol=1e-15)
    assert all(isinstance(rate, float) for rate in linear_rates(last, depth))


@pytest.mark.parametrize(("convention", "rate"), [("huang", 0.3), ("timm", 0.0)])
def test_linear_rates_of_one_block(convention, rate):
    assert linear_rates(0.3, 1, convention=convention) == (rate,)


@pytest.mark.parametrize("last", [0.0, 0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("convention", ["huang", "timm"])
def test_linear_rates_end_at_the_maximum_and_stay_rates(last, convention):
    for depth in (2, 3, 7, 100):
        rates = linear_rates(last, depth, convention=convention)
        assert rates[-1] == last
        assert all(0 <= rate <= last for rate in rates)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
def test_linear_rates_of_a_traced_maximum(dtype):
    rates = jax.jit(lambda last: linear_rates(last, 4))(jnp.ones((), dtype))
    assert all(rate.shape == () for rate in rates)
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1])


BAD_RATES = [
    (
        (1.5, 3),
        {},
        ValueError,
        "max_rate is the probability to drop and must be in [0, 1]: got max_rate=1.5",
    ),
    (
        ("0.5", 3),
        {},
        TypeError,
        "max_rate is the probability to drop and must be a number or a scalar array: got '0.5'",
    ),
    ((0.1, 0), {}, ValueError, "depth must be at least 1 block: got 0"),
    ((0.1, 3.0), {}, TypeError, "depth must be an integer: got 3.0"),
    (
        (0.1, 3),
        {"convention": "linear"},
        ValueError,
        "convention must be 'huang' or 'timm': got convention='linear'",
    ),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD_RATES)
def test_linear_rates_refuse(arguments, options, error, message):
    with pytest.raises(error, match=exactly(message)):
        linear_rates(*arguments, **options)


SCHEDULES = [
    optax.linear_schedule(0.0, 0.4, 4),
    optax.join_schedules([optax.constant_schedule(0.0), optax.constant_schedule(0.4)], [2]),
    optax.cosine_decay_schedule(0.4, 4),
    lambda step: 0.1 * step,
]


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_callable_is_a_schedule_and_costs_one_compile(face, schedule):
    case = next(case for case in CASES if case.function is spatial_dropout_1d)
    traces = []

    @jax.jit
    def step_of_training(step, key):
        traces.append(step)
        return case.face(face)(key, jnp.ones(case.shape), schedule(step))

    for step in range(5):
        y = step_of_training(step, jax.random.clone(KEY))
        rate = jnp.asarray(schedule(step), jnp.float32)
        mask = sample_mask(jax.random.clone(KEY), rate, case.noise_shape)
        np.testing.assert_array_equal(y != 0, np.broadcast_to(mask, case.shape))
    assert len(traces) == 1


def test_a_schedule_in_place_of_its_value():
    def warm_up(step):
        return 0.1 * step

    message = (
        "rate must be a number or a scalar array: got the function warm_up; pass the "
        "value of a schedule, schedule(step)"
    )
    with pytest.raises(TypeError, match=exactly(message)):
        dropout(KEY, jnp.ones(3), warm_up)


@pytest.mark.parametrize("face", FACES)
def test_a_schedule_that_returns_another_shape(face):
    def schedule(step):
        return jnp.full((1,), 0.1) * step

    message = (
        "rate must be one number or a scalar array, the same for all of x: "
        "got an array of shape (1,)"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        jax.jit(lambda step: CASES[0].face(face)(KEY, jnp.ones(CASES[0].shape), schedule(step)))(2)
