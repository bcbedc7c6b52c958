"""Applies masks, and controls what the backward pass keeps.

`Recipe` describes a regularizer, and `drop` runs it.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding

from ._checks import check_input, check_key, check_mask, check_rate, is_static, unboxed
from ._compat import assert_same_form
from ._noise_shape import check_mask_fits, check_mask_spreads
from ._random.kernel import drop_in_kernel, has_kernel
from ._random.mask import drawn_rate, is_redrawn, keep_threshold, sample_sharded
from ._random.redraw import redraw_mask
from ._random.sharding import sharding_of_part
from ._random.threefry import mark_as_used, rounds_of
from ._rates import keep_probability, scale_of
from ._typing import Array, Key, Rate, Shape

CHECKPOINT_NAME = "flax_spatialdrop"
"""The name of every output, for remat policies."""

Constant: TypeAlias = np.float32 | Array
"""A scale, an offset or a token id: a scalar, or an array that broadcasts to x and has as many
axes."""

Select: TypeAlias = Callable[..., jax.Array]
"""select(mask, x, *constants) returns the output. It is a static argument of jit, so it must be
hashable."""

Redraw: TypeAlias = Callable[..., jax.Array]
"""redraw(words, rounds, params, like) draws the mask from a key's words. It must be hashable, too.
"""


def apply_mask(x: Array, mask: Array, rate: Rate) -> jax.Array:
    """Sets the dropped values of x to 0 and scales the kept ones up, so that the mean is kept.

        y = where(mask, x / (1 - rate), 0)

    The scale is `float32(1) / float32(1 - rate)`. It is applied in float32 also if x has half
    precision, in float64 if x is float64, and to the real and imaginary part if x is complex.
    Dropped values are replaced and not multiplied by 0, so a NaN or Inf among them reaches neither
    the output nor the gradient. The backward pass keeps only the mask, in its own shape. At a rate
    of 1, values that the mask keeps are not scaled.

    Args:
      x: any shape, floating or complex.
      mask: a bool array, True where x is kept. It has as many axes as x, each of x's size or 1, and
        is used at any rate.
      rate: the probability to drop that the mask was drawn with, in [0, 1]: a number or a scalar
        array.

    Returns:
      A JAX array with the shape, dtype and sharding of x, named "flax_spatialdrop" for remat
      policies. (JAX converts NumPy input: float64 becomes float32 unless x64 is on.)

    Raises:
      ValueError: if a number for rate is outside [0, 1], or the shape of the mask does not fit x.
      TypeError: if x has an integer or bool dtype, the mask is not bool, or rate has the wrong
        type.

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


def apply_key(x: Array, key: jax.Array, rate: Rate) -> jax.Array:
    """Like `apply_mask`, with a mask that the key draws, in the shape of x."""
    x, keep = jnp.asarray(x), keep_probability(rate)
    if has_kernel(key, x):
        y: jax.Array = _by_kernel(key, x, keep_threshold(keep), scale_of(keep))
        assert_same_form(x, y)
        return y
    return by_key(kept_or_zero, key, x, rate, scale_of(keep))


def by_mask(select: Select, mask: Any, x: Array, *constants: Constant) -> jax.Array:
    """Returns select(mask, x, *constants), where mask may be a pytree of masks.

    The backward pass keeps only the mask, before it is broadcast to x's shape. The `jax.checkpoint`
    around `select` ensures this.
    """
    x = jnp.asarray(x)
    y: jax.Array = _by_mask(select, mask, x, *constants)
    assert_same_form(x, y)
    return y


def by_key(select: Select, key: jax.Array, x: Array, rate: Rate, *constants: Constant) -> jax.Array:
    """Like `by_redraw`, with a Bernoulli mask."""
    threshold = keep_threshold(keep_probability(rate))
    return by_redraw(select, redraw_mask, key, x, threshold, *constants, prevent_cse=False)


def by_redraw(
    select: Select,
    redraw: Redraw,
    key: jax.Array,
    x: Array,
    params: Any,
    *constants: Constant,
    prevent_cse: bool,
) -> jax.Array:
    """Draws a mask for each element of x and applies it; the backward pass draws it again.

    For example, for x of float32[1024, 1024], which takes 4 MB:

        by_mask(select, mask, x)                 keeps mask, 1 MB
        by_redraw(select, redraw, key, x, ...)   keeps the two words of the key, 8 bytes

    In both passes the draw is fused with the product, so the mask is never written to memory. (On
    CPUs, the packed mask of a fast key is.)

    Args:
      select: as for `by_mask`.
      redraw: draws the mask from the words of the key.
      key: a checked key.
      x: the input.
      params: the scalars that the distribution depends on, such as a threshold.
      *constants: further arguments of select.
      prevent_cse: True for a draw that costs more than a hash. If False, XLA may merge the draws of
        both passes and store the mask in between.
    """
    x = jnp.asarray(x)
    y: jax.Array = _by_redraw(select, redraw, prevent_cse, key, x, params, *constants)
    assert_same_form(x, y)
    return y


@partial(jax.jit, static_argnums=0)
def _by_mask(select: Select, mask: Any, x: jax.Array, *constants: Constant) -> jax.Array:
    # The barriers of prevent_cse=True would cost more than these few operations.
    y = jax.checkpoint(select, prevent_cse=False)(mask, x, *constants)
    named: jax.Array = checkpoint_name(y, CHECKPOINT_NAME)
    return named


@partial(jax.jit, static_argnums=(0, 1, 2))
def _by_redraw(
    select: Select,
    redraw: Redraw,
    prevent_cse: bool,
    key: jax.Array,
    x: jax.Array,
    params: Any,
    *constants: Constant,
) -> jax.Array:
    words, rounds = jax.random.key_data(key), rounds_of(key)
    mark_as_used(key)

    def draw_and_apply(
        words: jax.Array, x: jax.Array, params: Any, *constants: Constant
    ) -> jax.Array:
        return select(redraw(words, rounds, params, x), x, *constants)

    y = jax.checkpoint(draw_and_apply, prevent_cse=prevent_cse)(words, x, params, *constants)
    named: jax.Array = checkpoint_name(y, CHECKPOINT_NAME)
    return named


@jax.jit
def _by_kernel(
    key: jax.Array, x: jax.Array, threshold: np.uint32 | jax.Array, scale: Constant
) -> jax.Array:
    y = drop_in_kernel(kept_or_zero, key, x, threshold, scale)
    named: jax.Array = checkpoint_name(y, CHECKPOINT_NAME)
    return named


def kept_or_zero(mask: Array, x: jax.Array, scale: Constant) -> jax.Array:
    """Returns x * scale where the mask is True and 0 elsewhere, in x's dtype."""
    return jnp.where(mask, times(x, scale), jnp.zeros((), x.dtype))


def times(x: jax.Array, factor: Constant) -> jax.Array:
    """Returns x * factor in x's dtype, multiplied in at least float32."""
    if jnp.iscomplexobj(x):  # real and imaginary part, since (inf + 1j) * 2 is inf + nan j
        return jax.lax.complex(times(x.real, factor), times(x.imag, factor))
    wide = widened(x)
    return (wide * factor.astype(wide.dtype)).astype(x.dtype)


def widened(x: jax.Array) -> jax.Array:
    """Returns x in the precision to calculate in: float64 for float64, else float32."""
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def check_given_mask(
    mask: Any, noise_shape: Shape, shape: Shape, check: Callable[[Any], Array] = check_mask
) -> Array:
    """Returns a mask given by the user for x of `shape`; `check` checks its dtype."""
    checked = check(mask)
    check_mask_fits(checked.shape, noise_shape, shape)
    return checked


class Recipe(NamedTuple):
    """A regularizer: the shape of its mask, how the mask is drawn, and how it is applied.

    The defaults are those of dropout. The code that makes a recipe has checked the input.

    Attributes:
      noise_shape: the shape of the mask. It has as many axes as the input, unless `apply` expects
        another shape.
      sample: sample(key, rate, noise_shape, sharding) draws the mask, where `sharding` is that of x
        along the axes of the mask, or None; see `sharding_of_part`.
      apply: apply(x, mask, rate) returns the output. Its derivative keeps the mask in noise shape.
      apply_key: apply_key(x, key, rate) replaces `sample` and `apply` if the noise shape is the
        shape of x. Its derivative keeps only the key. It must be None if elements share draws
        although the noise shape is the shape of x, as in DropBlock.
      check_rate: returns a rate, or raises.
      check_mask: check_mask(mask, noise_shape, shape) returns a mask given by the user for x of
        `shape`, or raises.
      is_bernoulli: whether each entry of the mask is kept with probability 1 - rate, which a fast
        key rounds.
      draws_at_1: whether a rate of 1 needs a draw, and so a key, since it does not drop everything.
    """

    noise_shape: tuple[int, ...]
    sample: Callable[[Key, Rate, tuple[int, ...], NamedSharding | None], Any] = sample_sharded
    apply: Callable[[Array, Any, Rate], jax.Array] = apply_mask
    apply_key: Callable[[Array, jax.Array, Rate], jax.Array] | None = apply_key
    check_rate: Callable[[Any], Rate] = check_rate
    check_mask: Callable[[Any, Shape, Shape], Any] = check_given_mask
    is_bernoulli: bool = True
    draws_at_1: bool = False


def recipe_from(
    noise_shape_of: Callable[..., Shape], make: Callable[[Shape], Recipe] = Recipe
) -> Callable[..., Recipe]:
    """Returns a function that checks x and makes its recipe.

    recipe(x, *options) = make(noise_shape_of(x.shape, *options))
    """

    @wraps(noise_shape_of)
    def recipe(x: Array, *options: Any) -> Recipe:
        return make(noise_shape_of(check_input(x).shape, *options))

    return recipe


def drop(key: Key, x: Array, rate: Rate | None, recipe: Recipe) -> jax.Array:
    """Runs a regularizer: checks the rate, draws (or redraws) the mask, applies it."""
    rate, x = recipe.check_rate(rate), unboxed(x)
    if is_static(rate, 0.0):
        return jnp.asarray(x)
    if needs_key(rate, recipe):
        key = check_key(key)
        if recipe.is_bernoulli:
            rate = drawn_rate(key, rate)
        if recipe.apply_key is not None and is_redrawn(key, recipe.noise_shape, x.shape):
            return recipe.apply_key(x, key, rate)
    sharding = sharding_of_part(x, recipe.noise_shape)
    return recipe.apply(x, recipe.sample(key, rate, recipe.noise_shape, sharding), rate)


def needs_key(rate: Rate, recipe: Recipe) -> bool:
    """Whether the recipe draws a mask at a checked rate."""
    return not is_static(rate, 0.0) and (recipe.draws_at_1 or not is_static(rate, 1.0))
