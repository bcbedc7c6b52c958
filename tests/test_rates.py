import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_spatialdrop import apply_mask, dropout, sample_mask
from flax_spatialdrop._rates import keep_probability, scale_of

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
        "rate is the probability to drop and must be a number or a scalar array: got '0.5' of "
        "type str",
    ),
    (
        True,
        TypeError,
        "rate is the probability to drop and must be a number or a scalar array: got True of "
        "type bool",
    ),
    (
        None,
        TypeError,
        "rate is the probability to drop and must be a number or a scalar array: got None of "
        "type NoneType",
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
