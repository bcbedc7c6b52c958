"""The checks that the whole package shares, and the description of values in messages."""

import fractions

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop
from flax_spatialdrop import (
    _checks,
    dropout,
    embedding_dropout,
    patch_dropout,
    sample_mask,
)
from flax_spatialdrop._noise_shape import check_shape, resolve_noise_shape
from tests.errors import exactly

X = jnp.ones((2, 3))


def scheduled(step):
    return step


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ("a\nb", "'a\\nb'"),
        ("x" * 100, "'" + "x" * 56 + "..."),
        (10**400, "an integer of 401 digits"),
        ((1, None, "a"), "(1, None, 'a')"),
        ((X,), "(an array of shape (2, 3) and dtype float32,)"),
        (list(range(9)), "a list of 9 entries"),
        (range(2**70), f"range(0, {2**70})"),
        ({1, 2}, "{1, 2}"),
        ([[[[1]]]], "[[[a list of 1 entries]]]"),
        ({}, "a value of type dict"),
        (fractions.Fraction(3, 2), "3/2 of type Fraction"),
        (np.float64(1.5), "np.float64(1.5)"),
        (X, "an array of shape (2, 3) and dtype float32"),
        (jax.random.key(0), "an array of shape () and dtype key<fry>"),
        (
            jax.ShapeDtypeStruct((2,), np.int8),
            "a value of type ShapeDtypeStruct of shape (2,) and dtype int8",
        ),
        (scheduled, "the function scheduled"),
        (dict, "the class dict"),
        (nnx.Rngs(0), "a value of type Rngs"),
    ],
)
def test_a_value_is_shown_on_one_short_line(value, text):
    assert _checks.shown(value) == text


@pytest.mark.parametrize(
    "value", [b"False", "False", 0.5, 0, 1, {}, None, object(), np.ones(2, bool)]
)
def test_what_is_no_switch(value):
    message = f"scale must be True or False: got {_checks.shown(value)}"
    with pytest.raises(TypeError, match=exactly(message)):
        _checks.check_switch(value, "scale")


@pytest.mark.parametrize("value", [True, np.True_, np.array(True), jnp.array(True)])
def test_what_is_a_switch(value):
    assert _checks.check_switch(value, "scale") is True


def test_a_traced_switch():
    message = (
        "scale must be a Python bool, known when tracing: got a traced value; "
        "name it in jax.jit(..., static_argnames='scale')"
    )
    with pytest.raises(TypeError, match=exactly(message)):
        jax.jit(lambda value: _checks.check_switch(value, "scale"))(True)


@pytest.mark.parametrize("value", [np.int8(3), np.uint64(3), 3])
def test_whole_numbers_become_ints(value):
    assert type(_checks.check_whole(value, "depth")) is int
    assert [*map(type, check_shape((value,), "shape"))] == [int]
    assert [*map(type, resolve_noise_shape((3,), (value,)))] == [int]


def test_sequences_may_be_numpy_arrays():
    assert resolve_noise_shape((3, 4), np.array([1, 4])) == (1, 4)
    assert resolve_noise_shape((3, 4), None, np.array([0])) == (1, 4)


@pytest.mark.parametrize("value", [X, b"row", 3, ["row"]])
def test_a_choice_that_is_no_string(value):
    message = f"mode must be 'row' or 'batch': got mode={_checks.shown(value)}"
    with pytest.raises(TypeError, match=exactly(message)):
        _checks.check_choice(value, "mode", ("row", "batch"))


@pytest.mark.parametrize(
    ("rate", "error", "got"),
    [
        (10**400, ValueError, "rate=an integer of 401 digits"),
        (fractions.Fraction(3, 2), ValueError, "rate=3/2 of type Fraction"),
        (float("nan"), ValueError, "rate=nan"),
        (np.array(0.5, np.longdouble), TypeError, "an array of dtype float128"),
        (np.ma.masked, TypeError, "a masked array of shape () and dtype float64"),
    ],
)
def test_rates_that_no_cast_may_see(rate, error, got):
    with pytest.raises(error) as caught:
        dropout(jax.random.key(0), X, rate)
    assert str(caught.value).endswith(f": got {got}")


def test_a_box_of_no_function_is_no_function():
    with pytest.raises(TypeError, match="branch must be a function: got a value of type Variable"):
        _checks.check_callable(nnx.Variable(3), "branch", "a function")


def test_boxes_are_opened():
    key, rate = jax.random.key(0), nnx.Variable(jnp.float32(0.5))
    y = dropout(key, nnx.Param(X), rate)
    assert (y == dropout(jax.random.clone(key), X, jnp.float32(0.5))).all()


@pytest.mark.parametrize("dtype", ["longdouble", "clongdouble", "O", "U1", "m8[s]", "f4,i4"])
def test_dtypes_that_jax_does_not_have(dtype):
    ids, dtype = np.zeros((2, 3, 1), dtype), np.dtype(dtype)
    for name, function in (("x", dropout), ("x", patch_dropout), ("table", embedding_dropout)):
        message = f"{name} must have a dtype that JAX supports: got dtype {dtype}"
        with pytest.raises(TypeError, match=exactly(message)):
            function(jax.random.key(0), ids, 0.5)


def test_a_dtype_without_0():
    message = (
        "x must have a dtype that can represent 0, the value of dropped elements: got dtype "
        "float8_e8m0fnu"
    )
    with pytest.raises(TypeError, match=exactly(message)):
        dropout(jax.random.key(0), np.ones(3, ml_dtypes.float8_e8m0fnu), 0.5)


@pytest.mark.parametrize("value", ["11", b"11", bytearray(b"11"), memoryview(np.ones((1, 1)))])
def test_text_is_no_sequence(value):
    with pytest.raises(TypeError, match="noise_shape must be a tuple"):
        resolve_noise_shape((3, 4), value)


def test_swapped_arguments():
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="got dtype key<fry>; the key comes first"):
        dropout(X, key, 0.5)
    with pytest.raises(TypeError, match="dtype float32; the key comes first"):
        sample_mask(X, 0.5, (2,))


def test_a_legacy_key_of_another_implementation():
    with pytest.raises(TypeError, match="of JAX's default implementation, threefry2x32, or one"):
        dropout(np.zeros(4, np.uint32), X, 0.5)


class Box:
    """An object that JAX converts to an array, but without the attributes of an array."""

    def __jax_array__(self):
        return X


@pytest.mark.parametrize("function", [dropout, flax_spatialdrop.drop_path], ids=["dropout", "path"])
def test_an_array_in_a_box_is_the_array(function):
    key = jax.random.key(0)
    expected = function(jax.random.clone(key), X, 0.5)
    np.testing.assert_array_equal(function(key, Box(), 0.5), expected)


def test_a_narrow_scalar_is_a_number():
    assert _checks.check_rate(ml_dtypes.bfloat16(0.5)) == 0.5
    assert dropout(None, X, ml_dtypes.bfloat16(0)) is X
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]: got rate=1.5"):
        dropout(None, X, ml_dtypes.bfloat16(1.5))


def test_a_long_dtype_is_shortened():
    x = np.ones(2, np.dtype([(f"field_{i}", np.float32) for i in range(60)]))
    with pytest.raises(
        TypeError, match=r"\Ax must have a dtype that JAX supports: got dtype .*\.\.\.\Z"
    ):
        dropout(None, x, 0.5)
