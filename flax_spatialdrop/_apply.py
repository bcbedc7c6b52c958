"""From a mask to the output: what values become, and what the derivative keeps of it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from ._checks import check_input, check_key, check_mask, check_rate, is_static
from ._noise_shape import check_mask_spreads
from ._random.mask import is_redrawn, keep_threshold, redraw_mask, sample_mask
from ._random.threefry import rounds_of
from ._rates import keep_probability, scale_of
from ._typing import Array, Key, Rate

CHECKPOINT_NAME = "flax_spatialdrop"
"""The name of every output, for a remat policy of the user's own."""

Constant: TypeAlias = np.float32 | Array
"""A scale, offset or id: a scalar, or an array with as many axes as x that spreads over it."""

Values: TypeAlias = Callable[..., jax.Array]
"""What values become: f(mask, x, *constants), hashable by value, as jit's static arguments are."""

Redraw: TypeAlias = Callable[..., jax.Array]
"""A mask from a key's words: f(words, rounds, law, like), a function of a module's top level."""


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
    rate, mask, x = check_rate(rate), check_mask(mask), check_input(x)
    check_mask_spreads(mask.shape, x.shape)
    return by_mask(kept_or_zero, mask, x, scale_of(keep_probability(rate)))


def apply_redrawn(x: Array, key: jax.Array, rate: Rate) -> jax.Array:
    """`apply_mask` of a draw per element, by its key."""
    return by_key(kept_or_zero, key, x, rate, scale_of(keep_probability(rate)))


def by_mask(become: Values, mask: Array, x: Array, *constants: Constant) -> jax.Array:
    """become(mask, x, *constants), elementwise; the derivative keeps the mask as it came.

    Cut anywhere else, the derivative would keep the mask spread out to the shape of x.
    """
    x = jnp.asarray(x)
    y = _by_mask(become, mask, x, *constants)
    chex.assert_trees_all_equal_shapes_and_dtypes(x, y)
    return y


def by_key(become: Values, key: jax.Array, x: Array, rate: Rate, *constants: Constant) -> jax.Array:
    """`by_mask` of a draw per element, made in the same pass over x and never written down.

    The derivative draws the mask again: it keeps the key's two words, and scalars.
    """
    threshold = keep_threshold(keep_probability(rate))
    return by_redraw(become, redraw_mask, key, x, threshold, *constants, prevent_cse=False)


def by_redraw(
    become: Values,
    redraw: Redraw,
    key: jax.Array,
    x: Array,
    law: Any,
    *constants: Constant,
    prevent_cse: bool,
) -> jax.Array:
    """`by_key` of any draw; `law` is what it knows of the rate, scalars.

    Of a draw that costs more than a hash, the compiler would find the same one in forward and
    backward pass, and keep it from the one to the other: to be prevented by `prevent_cse`.
    """
    x = jnp.asarray(x)
    y = _by_redraw(become, redraw, prevent_cse, key, x, law, *constants)
    chex.assert_trees_all_equal_shapes_and_dtypes(x, y)
    return y


# Around the few operations of a mask, the barriers of prevent_cse cost more than they spare.
@partial(jax.jit, static_argnums=0)
def _by_mask(become, mask, x, *constants):
    y = jax.checkpoint(become, prevent_cse=False)(mask, x, *constants)
    return checkpoint_name(y, CHECKPOINT_NAME)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _by_redraw(become, redraw, prevent_cse, key, x, law, *constants):
    words, rounds = jax.random.key_data(key), rounds_of(key)
    jax.random.bits(key, (0,))  # draws nothing, but marks the key as used

    def draw_and_apply(words, x, law, *constants):
        return become(redraw(words, rounds, law, x), x, *constants)

    y = jax.checkpoint(draw_and_apply, prevent_cse=prevent_cse)(words, x, law, *constants)
    return checkpoint_name(y, CHECKPOINT_NAME)


def kept_or_zero(mask, x, scale):
    """X * scale where the mask is True, else 0, in x's dtype; scaled in at least float32."""
    return jnp.where(mask, times(x, scale), jnp.zeros((), x.dtype))


def times(x, factor):
    """X * factor in x's dtype, multiplied in at least float32."""
    if jnp.iscomplexobj(x):  # by parts: a complex product turns inf + 1j into inf + nan j
        return jax.lax.complex(times(x.real, factor), times(x.imag, factor))
    wide = widened(x)
    return (wide * factor.astype(wide.dtype)).astype(x.dtype)


def widened(x):
    """X in float32, or in float64 if it is: the precision to calculate in."""
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


class Recipe(NamedTuple):
    """A regularizer: the shape of its mask, how the mask is drawn, and how it is applied.

    The defaults are those of dropout. The code that makes a recipe has checked the input.

    Attributes:
      noise_shape: the mask's shape: as many axes as the input, unless apply takes it otherwise.
      sample: sample(key, rate, noise_shape) draws the mask.
      apply: apply(x, mask, rate) is the output; the derivative keeps the mask in noise shape.
      redraw: redraw(x, key, rate) is the output where each element has a draw of its own, and its
        derivative keeps the key alone; None to draw and apply there as well.
      check_rate: returns a rate, or says what is wrong with it.
      check_mask: returns a mask of a user's own, or says what it is.
      draws_at_1: whether a rate of 1 leaves something to draw, so that a key is needed.
    """

    noise_shape: tuple[int, ...]
    sample: Callable[[Key, Rate, tuple[int, ...]], jax.Array] = sample_mask
    apply: Callable[[Array, Array, Rate], jax.Array] = apply_mask
    redraw: Callable[[Array, jax.Array, Rate], jax.Array] | None = apply_redrawn
    check_rate: Callable[[Any], Rate] = check_rate
    check_mask: Callable[[Any], Array] = check_mask
    draws_at_1: bool = False


def drop(key: Key, x: Array, rate: Rate, recipe: Recipe) -> jax.Array:
    """Runs a regularizer: checks the rate, draws (or redraws) the mask, applies it."""
    rate = recipe.check_rate(rate)
    if is_static(rate, 0.0):
        return jnp.asarray(x)
    if needs_key(rate, recipe):
        key = check_key(key)
        if recipe.redraw is not None and is_redrawn(key, recipe.noise_shape, x.shape):
            return recipe.redraw(x, key, rate)
    return recipe.apply(x, recipe.sample(key, rate, recipe.noise_shape), rate)


def needs_key(rate: Rate, recipe: Recipe) -> bool:
    """Whether anything is drawn at a checked rate."""
    return not is_static(rate, 0.0) and (recipe.draws_at_1 or not is_static(rate, 1.0))
