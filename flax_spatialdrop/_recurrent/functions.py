"""Regularizers for recurrent loops of one's own, as functions."""

import jax
import jax.numpy as jnp

from .._apply import Recipe, drop
from .._checks import check_input, check_rate, check_switch, is_static
from .._noise_shape import check_size
from .._random.mask import sample_mask
from .._rates import keep_probability
from .._typing import Array, Key, Rate
from .step import mean_of_zoneout


def recurrent_masks(
    key: Key, rate: Rate, batch: int, features: int, gates: int | None = None
) -> jax.Array:
    """Draws the mask that an input or a state of a recurrent network keeps for a whole sequence.

        h_{t-1} -> h_{t-1} * m / (1 - rate),   m[b, f] ~ Bernoulli(1 - rate), the same for every t

    One mask for all gates, as Gal & Ghahramani have it, or with `gates` one for each of them,
    as Keras draws them.

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      rate: probability to drop, in [0, 1]; a number or a scalar array.
      batch: how many sequences.
      features: how many features of the input, or of the state.
      gates: how many gates have a mask of their own; None: all share one.

    Returns:
      bool[batch, features], or bool[gates, batch, features]; True where a value is kept.

    Raises:
      ValueError: for a number for rate outside [0, 1], a negative size, a missing key.
      TypeError: for a size that is no whole number, an argument of another type.

    Example:
      >>> import jax
      >>> from flax_spatialdrop import recurrent_masks
      >>> recurrent_masks(jax.random.key(0), 0.2, 8, 16).shape
      (8, 16)

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """
    own = () if gates is None else (check_size(gates, "gates"),)
    shape = (*own, check_size(batch, "batch"), check_size(features, "features"))
    return sample_mask(key, rate, shape)


def recurrent_dropout(key: Key, x: Array, rate: Rate) -> jax.Array:
    """Drops values of a recurrent cell's new content, and nothing of what it remembers.

        c_t = f_t * c_{t-1} + i_t * (g_t * m / (1 - rate)),   m ~ Bernoulli(1 - rate)

    Recurrent dropout without memory loss: `x` is the candidate g_t (of a GRU, its n_t). It is
    `dropout`; what makes it recurrent is where it stands. With the same key at every step the mask
    is that of the whole sequence.

    Args:
      key: one JAX PRNG key; consumed. None will do at a rate of exactly 0 or 1.
      x: the candidate, [batch, features], floating or complex.
      rate: probability to drop, in [0, 1]; a number or a scalar array.

    Returns:
      An array of x's shape, dtype and sharding.

    Raises:
      ValueError: for a number for rate outside [0, 1], a missing key.
      TypeError: for integer or bool x, or an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import recurrent_dropout
      >>> candidate, forget, add, memory = jnp.ones((4, 2, 3))
      >>> memory = forget * memory + add * recurrent_dropout(jax.random.key(0), candidate, 0.5)

    Reference: Semeniuta et al., Recurrent Dropout without Memory Loss, 2016,
    https://arxiv.org/abs/1603.05118
    """
    return drop(key, x, rate, Recipe(check_input(x).shape))


def zoneout(
    key: Key, x: Array, rate: Rate, *, previous: Array, deterministic: bool = False
) -> jax.Array:
    """Keeps values of a state as they were a step ago, at random; in evaluation mixes the two.

        y = where(d, previous, x),   d ~ Bernoulli(rate)
        y = rate * previous + (1 - rate) * x   in evaluation

    Args:
      key: one JAX PRNG key; consumed. None will do in evaluation and at a rate of exactly 0 or 1.
      x: the new state, floating or complex.
      rate: probability to stay as before, in [0, 1]; a number or a scalar array.
      previous: the state before, of x's shape and dtype.
      deterministic: True for evaluation: the mean over d.

    Returns:
      An array of x's shape and dtype.

    Raises:
      ValueError: for a number for rate outside [0, 1], a missing key, another shape of previous.
      TypeError: for integer or bool x, another dtype of previous, an argument of another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import zoneout
      >>> zoneout(None, jnp.ones(3), 0.25, previous=jnp.zeros(3), deterministic=True)
      Array([0.75, 0.75, 0.75], dtype=float32)

    Reference: Krueger et al., Zoneout: Regularizing RNNs by Randomly Preserving Hidden
    Activations, 2017, https://arxiv.org/abs/1606.01305
    """
    rate = check_rate(rate)
    x, previous = jnp.asarray(check_input(x)), jnp.asarray(check_input(previous, "previous"))
    if x.shape != previous.shape:
        raise ValueError(
            "previous must have the shape of x: "
            f"got previous.shape={previous.shape} for x.shape={x.shape}"
        )
    if x.dtype != previous.dtype:
        raise TypeError(
            f"previous must have the dtype of x: got {previous.dtype} for x of {x.dtype}"
        )
    if check_switch(deterministic, "deterministic"):
        keep = jnp.asarray(keep_probability(rate), jnp.float32)
        return mean_of_zoneout(keep, previous, x)
    if is_static(rate, 0.0):
        return x
    # The mask is True where the new value is taken, as everywhere where one is not dropped.
    return jnp.where(sample_mask(key, rate, x.shape), x, previous)
