"""Where dropout of attention weights is done: on the weights, or on what they stand for.

y[q] = sum over k of w[q, k] * value[k], so a mask that is the same for all queries may be applied
to the values, and one that is the same for all keys to the outputs. Neither has queries times keys
elements, and what is dropped there is selected away: no NaN or Inf in it reaches an output.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._apply import apply_mask, by_mask, drop, kept_or_zero, times
from .._checks import (
    check_array,
    check_key,
    check_switch,
    check_whole,
    is_at_most,
    is_static,
    is_symbolic,
    shown,
)
from .._noise_shape import resolve_noise_shape
from .._ops.blocks import Blocks, recipe_of, sample_blocks, scale_by_position, unseeded_probability
from .._random.mask import keep_threshold, words_and_rounds
from .._rates import keep_probability, scale_of
from .._summary import Use, Where, note
from .._typing import Array, Key, NoiseShape, Rate, Shape
from .tile import MaskSource


def weights_shape(query: Array, key: Array) -> Shape:
    """[*batch, heads, queries, keys]."""
    return query.shape[:-3] + query.shape[-2:-1] + query.shape[-3:-2] + key.shape[-3:-2]


def check_operands(
    query: Any, key: Any, value: Any, *, dtype: Any, precision: Any
) -> tuple[Any, Any, Any]:
    """Returns three arrays of numbers; what they are computed in is checked too."""
    if dtype is not None and not _is_inexact(dtype):
        raise TypeError(
            f"dtype must be None or a floating or complex dtype of JAX: got {shown(dtype)}"
        )
    if precision is not None and not _is_precision(precision):
        raise ValueError(
            "precision must be None, a jax.lax.Precision, its name, or a pair of them: "
            f"got {shown(precision)}"
        )
    return _numbers(query, "query"), _numbers(key, "key"), _numbers(value, "value")


def _numbers(array: Any, name: str) -> Array:
    array = check_array(array, name)
    if not jnp.issubdtype(array.dtype, jnp.number):
        looks_like_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
        advice = "; a PRNG key is passed as dropout_rng" if looks_like_key else ""
        raise TypeError(f"{name} must have a dtype of numbers: got dtype {array.dtype}{advice}")
    return array


def _is_inexact(dtype: Any) -> bool:
    try:
        return jnp.issubdtype(jax.dtypes.canonicalize_dtype(dtype), jnp.inexact)
    except (TypeError, ValueError):
        return False


def _is_precision(precision: Any) -> bool:
    x = jax.ShapeDtypeStruct((1,), jnp.float32)
    try:
        jax.eval_shape(lambda x: jax.lax.dot(x, x, precision=precision), x)
    except (TypeError, ValueError):
        return False
    return True


def check_sown(module: Any) -> None:
    """Raises unless a module can be told what the weights are, or is None."""
    if module is not None and not hasattr(module, "sow"):
        raise TypeError(
            f"module must be None or a Flax module, which sows the weights: got {shown(module)}"
        )


def check_attention(query: Array, key: Array, value: Array, *, grouped: bool) -> None:
    """Raises unless they fit one another; `grouped`: several heads of query may share one."""
    shapes = f"query.shape={query.shape}, key.shape={key.shape} and value.shape={value.shape}"
    if not query.ndim == key.ndim == value.ndim >= 3:
        raise ValueError(
            "query, key and value must have the same axes, [*batch, length, heads, features]: "
            f"got {shapes}"
        )
    if not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(f"query, key and value must have the same batch axes: got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have the same number of features: got {shapes}")
    if key.shape[-3] != value.shape[-3]:
        raise ValueError(f"key and value must have the same length: got {shapes}")
    heads = query.shape[-2]
    others = {key.shape[-2], value.shape[-2]} - {heads}
    if others and not grouped:
        raise ValueError(f"query, key and value must have the same number of heads: got {shapes}")
    if any(own == 0 or heads % own != 0 for own in others):
        raise ValueError(f"the heads of key and of value must divide those of query: got {shapes}")


def over_weights(bias: Any, mask: Any, shape: Shape) -> tuple[Any, Any]:
    """A bias and a mask with as many axes as the weights of `shape`, each of their size or 1."""
    return _of_full_rank(bias, "bias", shape), _of_full_rank(mask, "mask", shape)


def _of_full_rank(array: Any, name: str, shape: Shape) -> Array | None:
    if array is None:
        return None
    if isinstance(array, bool | int | float):
        array = jnp.asarray(array)
    array = check_array(array, name)
    kind = array.dtype
    if kind != jnp.bool_ and not jnp.issubdtype(kind, jnp.number):
        raise TypeError(f"{name} must be an array of bools or numbers: got dtype {kind}")
    missing = (1,) * (len(shape) - array.ndim)
    sizes = missing + array.shape
    if len(sizes) > len(shape) or any(
        own not in (1, size) for own, size in zip(sizes, shape, strict=True)
    ):
        raise ValueError(
            f"{name} must spread over the weights, [*batch, heads, queries, keys], which are "
            f"{shape}: got {name}.shape={array.shape}"
        )
    return array.reshape(sizes) if missing else array


class WeightsDropout(NamedTuple):
    """Dropout of weights [*batch, heads, queries, keys].

    Attributes:
      key: None will do at a rate of exactly 1.
      rate: the probability to drop, checked and not the number 0.
      spans: the mask's noise shape, and the spans of keys that share a fate.
      shape: of the weights.
    """

    key: Key
    rate: Rate
    spans: Blocks
    shape: Shape

    @property
    def place(self) -> str:
        """Where it is done: "values", "outputs" or "weights"."""
        *_, queries, keys = self.spans.noise_shape
        if is_static(self.rate, 1.0):
            return "outputs"
        if queries == 1:  # before outputs, whose derivatives a NaN in a dropped value would reach
            return "values"
        return "outputs" if keys == 1 else "weights"

    def of_values(self, value: jax.Array, heads: int) -> jax.Array:
        """Values [*batch, keys, heads, features], dropped where that is the place."""
        if self.place != "values":
            return value
        if self.spans.noise_shape[-3] not in (1, value.shape[-2]):
            value = jnp.repeat(value, heads // value.shape[-2], axis=-2)

        def run(value: jax.Array) -> jax.Array:
            mask = _from_keys(sample_blocks(self.key, self.rate, self.spans))
            if not self.spans.long_axes:
                return apply_mask(value, mask, self.rate)
            return by_mask(kept_or_zero, mask, value, _from_keys(self._scale_of_spans()))

        return self._noted(run, value)

    def of_outputs(self, y: jax.Array) -> jax.Array:
        """Outputs [*batch, queries, heads, features], dropped where that is the place."""
        if self.place != "outputs":
            return y

        def run(y: jax.Array) -> jax.Array:
            if is_static(self.rate, 1.0):
                return jnp.zeros_like(y)
            mask = sample_blocks(self.key, self.rate, self.spans)
            return apply_mask(y, jnp.swapaxes(mask, -2, -3), self.rate)

        return self._noted(run, y)

    def of_weights(self, weights: jax.Array) -> jax.Array:
        """Whole weights, dropped where that is the place."""
        if self.place != "weights":
            return weights

        def run(weights: jax.Array) -> jax.Array:
            return drop(self.key, weights, self.rate, recipe_of(self.spans, "expected", weights))

        return self._noted(run, weights)

    def take_source(self) -> tuple[MaskSource, int]:
        """What draws any block of the mask of weights, and the hash's rounds; consumes the key."""
        key = check_key(self.key, "dropout_rng")
        words, rounds = words_and_rounds(key, self.spans.seed_shape, "dropout_rng")
        jax.random.bits(key, (0,))  # draws nothing, but marks the key as used
        threshold = keep_threshold(unseeded_probability(self.rate, self.spans))
        return MaskSource(words, threshold), rounds

    def scaled(self, value: jax.Array) -> jax.Array:
        """Values scaled as the weights would be, which are dropped block by block."""

        def run(value: jax.Array) -> jax.Array:
            if not self.spans.long_axes:
                return times(value, scale_of(keep_probability(self.rate)))
            return times(value, _from_keys(self._scale_of_spans()))

        # The backward pass draws each block again, from the words of the key.
        return self._noted(run, value, kept=jax.random.key_data(check_key(self.key)).nbytes)

    def _noted(
        self, run: Callable[[jax.Array], jax.Array], x: jax.Array, kept: int | None = None
    ) -> jax.Array:
        """run(x), where the weights are dropped; a summary that is being made notes it."""
        key = None if is_static(self.rate, 1.0) else self.key
        _note(run, x, self.spans.noise_shape, self.shape, self.rate, key, kept)
        return run(x)

    def _scale_of_spans(self):
        return scale_by_position(unseeded_probability(self.rate, self.spans), self.spans)


def weights_dropout(
    query: Array,
    key: Array,
    dropout_rng: Key,
    rate: Rate,
    *,
    deterministic: Any,
    broadcast_dropout: Any,
    noise_shape: NoiseShape | None,
    broadcast_dims: Sequence[int] | None,
    span: int,
) -> WeightsDropout | None:
    """What drops weights [*batch, heads, queries, keys], by Flax's words and ours; None if nothing.

    The mask's shape is Flax's own unless one of ours is given. The rate is checked.
    """
    shape = weights_shape(query, key)
    broadcast_dropout = check_switch(broadcast_dropout, "broadcast_dropout")
    if noise_shape is None and broadcast_dims is None and broadcast_dropout:
        broadcast_dims = range(len(shape) - 2)
    noise_shape = resolve_noise_shape(shape, noise_shape, broadcast_dims)
    span = check_whole(span, "span", least=1, unit="key")
    if span > 1 and noise_shape[-1] != shape[-1]:
        raise ValueError(
            "span counts keys that share a fate, so the mask must have draws of its own for them: "
            f"got span={span} with the noise shape {noise_shape} of the weights"
        )
    if span > 1 and is_at_most(noise_shape[-1], span):
        noise_shape, span = (*noise_shape[:-1], 1), 1
    if check_switch(deterministic, "deterministic") or is_static(rate, 0.0):
        _note(jnp.asarray, query, noise_shape, shape, rate, active=False)
        return None
    if dropout_rng is None and not is_static(rate, 1.0):
        raise ValueError(
            "attention weights are dropped with a PRNG key unless the rate is the number 0 or 1: "
            "got dropout_rng=None; pass one, such as jax.random.key(0), or deterministic=True"
        )
    if not is_static(rate, 1.0):
        dropout_rng = check_key(dropout_rng, "dropout_rng")
    return WeightsDropout(dropout_rng, rate, _spans(noise_shape, span), shape)


def _note(
    run: Callable[[Any], jax.Array],
    x: Array,
    noise_shape: Shape,
    shape: Shape,
    rate: Rate,
    key: Key = None,
    kept: int | None = None,
    *,
    active: bool = True,
) -> None:
    use = Use(noise_shape, rate, key, active=active, shape=shape, kept=kept)
    note(lambda: Where(None, "attention weights", "a key"), run, x, use)


def _spans(noise_shape: Shape, span: int) -> Blocks:
    """The spans of keys in weights of a noise shape."""
    *others, draws = noise_shape
    if span > 1 and is_symbolic(draws):
        raise ValueError(
            "span must be 1 where the number of keys is a symbolic size, on which the share of "
            f"spans depends: got span={span} for {draws} keys"
        )
    return Blocks(noise_shape, axes=(len(others),), sizes=(span,), batch_dims=len(others))


def _from_keys(array):
    """From [*batch, heads, 1, keys] to the layout of values, [*batch, keys, heads, 1]."""
    return jnp.swapaxes(array[..., 0, :], -1, -2)[..., None]
