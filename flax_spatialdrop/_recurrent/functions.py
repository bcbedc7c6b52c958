"""Functions of recurrent dropout, for a loop that you write yourself."""

import jax
import jax.numpy as jnp

from .._apply import Recipe, drop
from .._checks import check_input, check_rate, check_switch, is_static
from .._noise_shape import check_size
from .._random.mask import sample_mask, sample_sharded
from .._random.sharding import explicit_sharding
from .._rates import keep_probability
from .._typing import Array, Key, Rate
from .step import mean_of_zoneout


def recurrent_masks(
    key: Key, rate: Rate, batch: int, features: int, gates: int | None = None
) -> jax.Array:
    """Draws a mask for the inputs or the state of a recurrent network, the same for all steps.

        h_{t-1} -> h_{t-1} * m / (1 - rate),   m[b, f] ~ Bernoulli(1 - rate), the same for every t

    By default all gates share one mask, as in Gal & Ghahramani. With `gates`, each gate has its own
    mask, as in Keras.

    Args:
      key, rate: as in `dropout`.
      batch: the number of sequences.
      features: the number of features of the inputs, or of the state.
      gates: the number of gates, each of which has its own mask; None for one mask.

    Returns:
      bool[batch, features], or bool[gates, batch, features]; True where a value is kept.

    Raises:
      ValueError: if a size is negative; else as in `dropout`.
      TypeError: if a size is not an integer; else as in `dropout`.

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
    """Drops values of the new content of a recurrent cell, and keeps its memory.

        c_t = f_t * c_{t-1} + i_t * (g_t * m / (1 - rate)),   m ~ Bernoulli(1 - rate)

    This is recurrent dropout without memory loss. It is `dropout` of the candidate `x`, which is
    g_t in an LSTM and n_t in a GRU. With the same key in every step, all steps have the same mask.

    Args:
      key, rate: as in `dropout`.
      x: the candidate, [batch, features], floating or complex.

    Returns:
      An array with the shape, dtype and sharding of x.

    Raises:
      ValueError, TypeError: as in `dropout`.

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
    """Keeps random values of a state from the step before; in evaluation, takes the mean.

        y = where(d, previous, x),   d ~ Bernoulli(rate)
        y = rate * previous + (1 - rate) * x   in evaluation

    Args:
      key: as in `dropout`; may also be None in evaluation.
      x: the new state, floating or complex.
      rate: the probability to keep the previous value, in [0, 1]: a number or a scalar array.
      previous: the state of the step before, with the shape and dtype of x.
      deterministic: True for evaluation, which takes the mean over d.

    Returns:
      An array with the shape and dtype of x.

    Raises:
      ValueError: if previous does not have the shape of x; else as in `dropout`.
      TypeError: if previous does not have the dtype of x; else as in `dropout`.

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
    # The mask is True where the new value is taken.
    return jnp.where(sample_sharded(key, rate, x.shape, explicit_sharding(x)), x, previous)
