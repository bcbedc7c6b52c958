"""Embedding noise (NEFTune): adds uniform noise to embeddings; no value is dropped."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from .._apply import Recipe, by_mask, by_redraw, check_given_mask, drop, widened
from .._checks import check_array, check_input, check_scalar, is_static, is_symbolic
from .._random.noise import redraw_uniform, sample_uniform
from .._random.sharding import sharding_of_part
from .._rates import fence
from .._typing import Array, Key, Rate, Shape
from .spans import check_lengths


def embedding_noise(
    key: Key, x: Array, alpha: Rate, *, lengths: int | Array | None = None
) -> jax.Array:
    """Adds uniform noise to embeddings, less to longer sequences; also called NEFTune.

        y[b, t, d] = x[b, t, d] + alpha / sqrt(lengths[b] * D) * u[b, t, d] where t < lengths[b],
                     else x[b, t, d];      u[x.shape] ~ Uniform(-1, 1)

    So the noise of a sequence has the same size, whatever the number of its values: the root mean
    square of its norm is alpha / sqrt(3). u is `jax.random.uniform(key, x.shape, minval=-1,
    maxval=1)`, and it is scaled in float32 for any dtype of x. The sum is rounded once. The
    gradient is that of the identity, and the backward pass keeps nothing.

    Args:
      key: as in `dropout`, but it may be None only if alpha is the number 0.
      x: [*batch, length, features], floating: embeddings, before or after position embeddings.
      alpha: the strength of the noise, at least 0 (5 to 15 in the paper): a number or a scalar
        array, which may be traced and has no gradient.
      lengths: the number of tokens of each sample, integers [*batch], traced or not; an int for a
        single sample. Padding comes last and gets no noise. Values of arrays are clipped to 0, ...,
        length. None says that no sample is padded.

    Returns:
      An array with the shape, dtype and sharding of x; x itself if alpha is the number 0.

    Raises:
      ValueError: if alpha is a negative number, x has fewer than two axes, lengths does not fit x,
        or the key is missing.
      TypeError: if x does not have a floating dtype, or an argument has the wrong type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import embedding_noise
      >>> y = embedding_noise(jax.random.key(0), jnp.ones((1, 4, 3)), 5.0, lengths=jnp.array([2]))
      >>> (y != 1).astype(int)[0]
      Array([[1, 1, 1],
             [1, 1, 1],
             [0, 0, 0],
             [0, 0, 0]], dtype=int32)

    Reference: Jain et al., NEFTune: Noisy Embeddings Improve Instruction Finetuning, 2023,
    https://arxiv.org/abs/2310.05914
    """
    return drop(key, x, alpha, noise_recipe(x, lengths))


def noise_recipe(x: Array, lengths: int | Array | None) -> Recipe:
    """Returns the recipe of embedding noise for x, which is checked here.

    Its mask is the noise that is added, and its rate is alpha.
    """
    x = check_input(x, kind=jnp.floating, rule="a floating dtype")
    if len(x.shape) < 2:
        raise ValueError(f"x must be [*batch, length, features]: got x.shape={x.shape}")
    known = None if lengths is None else check_lengths(lengths, x.shape[-2], x)
    size = x.shape[-2:]

    def sample(key: Key, alpha: Rate, shape: Shape, sharding: NamedSharding | None) -> jax.Array:
        if is_static(alpha, 0.0):
            return jnp.zeros(shape, np.float32, out_sharding=sharding)
        scale = _scale(alpha, known, size)
        return _inside(sample_uniform(key, scale, shape, sharding), known)

    def apply_key(x: Array, key: jax.Array, alpha: Rate) -> jax.Array:
        params = _scale(alpha, known, size), known
        return by_redraw(_plus, _redraw, key, x, params, prevent_cse=False)

    return Recipe(
        x.shape,
        sample=sample,
        apply=lambda x, noise, _: by_mask(_plus, noise, x),
        apply_key=apply_key,
        check_rate=check_alpha,
        check_mask=partial(check_given_mask, check=_check_noise),
        is_bernoulli=False,
        draws_at_1=True,
    )


def check_alpha(alpha: Any, name: str = "alpha") -> Rate:
    """Returns a strength: a number as a float of at least 0, and a scalar array as it is."""
    return check_scalar(
        alpha, name, most=float(np.finfo(np.float32).max), limits="at least 0 and finite"
    )


def _scale(alpha: Rate, lengths: jax.Array | None, size: Shape) -> np.float32 | jax.Array:
    """Returns alpha / sqrt(length * features) for each sample, with axes for both sizes of x.

    It is a product with the inverse, since XLA replaces a division by a constant by a product, and
    would round differently where lengths are known.
    """
    length, features = size
    root: Any
    if lengths is not None:
        count = jnp.maximum(lengths, 1).astype(np.float32) * jnp.asarray(features, np.float32)
        root = jnp.expand_dims(fence(jnp.sqrt(fence(count))), (-2, -1))
    elif is_symbolic(length * features):
        root = fence(jnp.sqrt(jnp.asarray(length * features, np.float32)))
    else:
        root = np.sqrt(np.float32(max(length * features, 1)))
    if isinstance(alpha, float):
        strength: Any = np.float32(alpha)
    else:
        strength = jax.lax.stop_gradient(jnp.asarray(alpha)).astype(np.float32)
    scale: np.float32 | jax.Array = fence(strength * fence(np.float32(1) / root))
    return scale


def _redraw(words: jax.Array, rounds: int, params: Any, like: jax.Array) -> jax.Array:
    scale, lengths = params
    return _inside(redraw_uniform(words, rounds, scale, like), lengths)


def _inside(noise: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Returns the noise, without that of the padding. There it is -0, which changes no number."""
    if lengths is None:
        return noise
    shape = (*noise.shape[:-1], 1)
    sharding = sharding_of_part(noise, shape)
    places = jax.lax.broadcasted_iota(np.int32, shape, noise.ndim - 2, out_sharding=sharding)
    return jnp.where(places < lengths[..., None, None], noise, np.float32(-0.0))


def _plus(noise: jax.Array, x: jax.Array) -> jax.Array:
    """Returns x + noise in x's dtype, added in at least float32."""
    wide = widened(x)
    return (wide + noise.astype(wide.dtype)).astype(x.dtype)


def _check_noise(noise: Any) -> Array:
    checked = check_array(noise, "mask")
    if checked.dtype != jnp.float32:
        raise TypeError(
            "the mask of embedding noise is the noise that is added to x, and must be a float32 "
            f"array: got dtype {checked.dtype}"
        )
    return checked
