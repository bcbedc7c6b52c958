"""Where dropout of attention weights is done: on the weights, or on what they stand for.

y[q] = sum over k of w[q, k] * value[k], so a mask that is the same for all queries may be applied
to the values, and one that is the same for all keys to the outputs. Neither has queries times keys
elements, and what is dropped there is selected away: no NaN or Inf in it reaches an output.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._apply import apply_mask, by_mask, kept_or_zero, times
from .._attention_input import weights_shape
from .._block_mask import sample_blocks, scale_by_position, unseeded_probability
from .._block_shape import Blocks
from .._checks import check_key, check_switch, check_whole, is_at_most, is_static, is_symbolic
from .._choices import drop
from .._mask_block import words_and_rounds
from .._noise_shape import resolve_noise_shape
from .._ops.blocks import choices_of
from .._random.mask import keep_threshold
from .._rates import keep_probability, scale_of
from .._recorder import Where, current_recorder
from .._typing import Array, Key, NoiseShape, Rate, Shape
from .._weights_mask import MaskSource


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
            return drop(self.key, weights, self.rate, choices_of(self.spans, "expected", weights))

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
    recorder = current_recorder()
    if recorder is not None:
        recorder.note(
            Where(recorder.place, "attention weights", "a key"),
            run,
            x,
            noise_shape,
            rate=rate,
            active=active,
            key=key,
            mask=None,
            shape=shape,
            kept=kept,
        )


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
