"""From a mask to the output: the only file that touches values."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from ._mask import keep_threshold, redraw_mask
from ._noise_shape import check_mask_spreads
from ._rates import check_rate, keep_probability, scale_of
from ._threefry import rounds_of
from ._typing import Array, Rate

CHECKPOINT_NAME = "flax_spatialdrop"
"""The name of every output, for a remat policy of the user's own."""


def apply_mask(x: Array, mask: Array, rate: Rate) -> jax.Array:
    """Sets the dropped values of x to 0 and scales the kept ones up, so that the mean is kept.

        y = where(mask, x / (1 - rate), 0)

    The scale is `float32(1) / float32(1 - rate)` and is applied in float32 (float64 for float64
    x; complex values by their parts), never in half precision. What is dropped is selected away,
    so no NaN or Inf in it reaches the output or the gradient. The backward pass keeps the mask in
    the shape given, and nothing of x. At a rate of 1 a value that the mask keeps is not scaled.

    Args:
      x: any shape, floating or complex.
      mask: bool, True where x is kept; as many axes as x, each of x's size or 1. It is always
        used, at any rate.
      rate: the probability to drop that the mask was drawn with, in [0, 1]; a number or a scalar
        array.

    Returns:
      A JAX array of x's shape, dtype and sharding, named "flax_spatialdrop" for remat policies.
      (NumPy input is taken as JAX takes it: float64 becomes float32 unless x64 is on.)

    Raises:
      ValueError: for a rate outside [0, 1] or a mask whose shape does not fit x.
      TypeError: for integer or bool x, a mask that is not bool, a rate of another type.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax_spatialdrop import apply_mask
      >>> apply_mask(jnp.ones((2, 3)), jnp.array([[True], [False]]), 0.5)
      Array([[2., 2., 2.],
             [0., 0., 0.]], dtype=float32)

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    rate = check_rate(rate)
    x = jnp.asarray(check_input(x))
    check_mask_spreads(check_mask(mask).shape, x.shape)
    y = _select(mask, x, scale_of(keep_probability(rate)))
    chex.assert_trees_all_equal_shapes_and_dtypes(x, y)
    return y


def apply_redrawn(x: Array, key: jax.Array, rate: Rate) -> jax.Array:
    """`apply_mask` of a draw per element, made in the same pass over x and never written down.

    The backward pass draws the mask again: it keeps the key's two words and nothing else
    (of a traced rate, its scalars).
    """
    keep = keep_probability(rate)
    x = jnp.asarray(x)
    y = _redraw_and_select(key, x, keep_threshold(keep), scale_of(keep))
    chex.assert_trees_all_equal_shapes_and_dtypes(x, y)
    return y


def check_input(x: Any) -> Array:
    """Returns x if its values can be scaled, or says what it is."""
    if not isinstance(x, jax.Array | np.ndarray):
        raise TypeError(f"x must be a JAX or NumPy array: got {x!r} of type {type(x).__name__}")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            "x must have a floating or complex dtype, since kept values are scaled by "
            f"1 / (1 - rate): got dtype {x.dtype}"
        )
    return x


def check_mask(mask: Any) -> Array:
    """Returns mask if it is a bool array, or says what it is."""
    if getattr(mask, "dtype", None) != jnp.bool_:
        got = f"dtype {mask.dtype}" if hasattr(mask, "dtype") else repr(mask)
        raise TypeError(f"mask must be a bool array, True where a value is kept: got {got}")
    return mask


@jax.jit
def _select(mask: Array, x: jax.Array, scale: np.float32 | jax.Array) -> jax.Array:
    # Cut here, the derivative keeps the mask as it came, never spread out to the shape of x.
    # prevent_cse puts barriers around the few operations, which cost more than they spare.
    y = jax.checkpoint(kept_or_zero, prevent_cse=False)(mask, x, scale)
    return checkpoint_name(y, CHECKPOINT_NAME)


@jax.jit
def _redraw_and_select(
    key: jax.Array,
    x: jax.Array,
    threshold: np.uint32 | jax.Array,
    scale: np.float32 | jax.Array,
) -> jax.Array:
    words, rounds = jax.random.key_data(key), rounds_of(key)
    jax.random.bits(key, (0,))  # draws nothing, but marks the key as used

    def redraw(words, x, threshold, scale):
        mask = redraw_mask(words, rounds, threshold, x)
        return kept_or_zero(mask, x, scale)

    y = jax.checkpoint(redraw, prevent_cse=False)(words, x, threshold, scale)
    return checkpoint_name(y, CHECKPOINT_NAME)


def kept_or_zero(mask, x, scale):
    """X * scale where the mask is True, else 0, in x's dtype; scaled in at least float32."""
    return jnp.where(mask, _times(x, scale), jnp.zeros((), x.dtype))


def _times(x, scale):
    if jnp.iscomplexobj(x):  # by parts: a complex product turns inf + 1j into inf + nan j
        return jax.lax.complex(_times(x.real, scale), _times(x.imag, scale))
    dtype = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    return (x.astype(dtype) * scale.astype(dtype)).astype(x.dtype)
