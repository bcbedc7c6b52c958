"""Dropout of attention weights, which may be applied to the values or the outputs instead.

An output is a sum over keys: y[q] = sum over k of mask[q, k] * weights[q, k] * value[k]. If the
mask does not depend on q, it can be applied to the values. If it does not depend on k, it can be
applied to y:

    mask's noise shape     computed as                        example: [queries, keys] = [2, 3]
    [..., 1, keys]         y = weights @ (mask^T * value)     mask [[1, 0, 1]] zeroes value[1]
    [..., queries, 1]      y = mask * (weights @ value)       mask [[1], [0]] zeroes y[1]
    [..., queries, keys]   y = (mask * weights) @ value       mask [[1, 0, 1], [0, 1, 1]]

The first two forms need no array of queries times keys. They replace dropped values by 0 and do not
multiply, so a NaN or Inf among the dropped values does not reach the result.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from .._apply import apply_mask, by_mask, drop, kept_or_zero, times
from .._checks import (
    check_key,
    check_rate,
    check_switch,
    check_whole,
    is_at_most,
    is_static,
    is_symbolic,
)
from .._noise_shape import resolve_noise_shape
from .._ops.block_mask import Blocks, no_seed_probability, sample_blocks, scale_by_position
from .._ops.blocks import recipe_of_blocks
from .._random.keys import fold_in
from .._random.mask import drawn_rate, keep_threshold, words_and_rounds
from .._random.sharding import explicit_sharding, spec_of
from .._random.threefry import mark_as_used
from .._rates import keep_probability, scale_of
from .._scaling import scaled
from .._summary import Use, Where, note
from .._typing import Key, Rate, Shape
from .arguments import DropoutOptions, Inputs, check_sown
from .sharded import shard_features, shard_like_queries
from .tile import MaskSource
from .whole import with_whole_mask


def dot_product(
    attend: Callable[[Inputs, "AttentionDropout"], jax.Array],
    dropout_rng: Key,
    x: Inputs,
    options: DropoutOptions,
) -> jax.Array:
    """Flax's dot-product attention, with any noise shape for the dropout of its weights.

        w = softmax(query key^T / sqrt(depth)),   y = (w * m / (1 - rate)) value

    It can replace Flax's own function, also as the `attention_fn` of a layer. It takes Flax's
    arguments in the same order and with the same meaning, and the same key draws the same mask. In
    float32 the values are the same too; in half precision the weights are scaled in float32. The
    backward pass keeps the mask in noise shape, or only the key if each weight has its own draw.

    `segment_ids` and `window` become part of the mask, an array of [*batch, 1, queries, keys]. If a
    query may not attend to any key, its output is the mean of all values, as in Flax.

    Args:
      attend: computes Flax's attention, and calls `drop_weights` on the weights after the softmax.
      dropout_rng: a JAX PRNG key, which the call consumes. It may be None if nothing is drawn.

    Returns:
      An array of [*batch, queries, heads, features].

    Raises:
      ValueError: if shapes do not fit; if a number for the rate is outside [0, 1]; if dropout_rng
        is missing; if noise_shape or broadcast_dims does not fit the weights; if span is below 1,
        or above 1 where the keys share a draw; if a side of window is below 0; if soft_cap is not
        above 0; if Flax does not accept two arguments together.
      TypeError: if an argument has the wrong type.

    Reference: Vaswani et al., Attention Is All You Need, 2017, https://arxiv.org/abs/1706.03762;
    Lin Zehui et al., DropAttention: A Regularization Method for Fully-Connected Self-Attention
    Networks, 2019, https://arxiv.org/abs/1907.11065 (drops keys and spans of keys, and normalizes
    the weights again)
    """
    check_sown(x.module)
    dropout = weights_dropout(dropout_rng, x, options)
    whole = with_whole_mask(shard_like_queries(x))
    whole = whole._replace(value=dropout.drop_values(whole.value))
    return shard_features(dropout.drop_outputs(attend(whole, dropout)), x.value)


@dataclasses.dataclass
class AttentionDropout:
    """The dropout of weights [*batch, heads, queries, keys], as methods for the steps of attention.

    In this base class no method drops anything. Each subclass overrides the methods of the step in
    which it drops.

    Attributes:
      key: a checked key; None if nothing is drawn.
      rate: the checked rate.
      spans: the mask's noise shape, and the spans of keys that are dropped together.
      shape: the shape of the weights.
    """

    key: Key
    rate: Rate
    spans: Blocks
    shape: Shape
    active: ClassVar[bool] = True

    def drop_values(self, value: jax.Array) -> jax.Array:
        """Returns the values to attend to, [*batch, keys, heads, features]."""
        return value

    def drop_weights(self, weights: jax.Array) -> jax.Array:
        """Returns the weights to multiply the values by; `weights` come from the softmax."""
        return weights

    def prepare_tiles(self, value: jax.Array) -> tuple[jax.Array, MaskSource | None]:
        """Returns the values to attend to, and the source of masks for tiles of weights."""
        return self.drop_values(value), None

    def drop_outputs(self, y: jax.Array) -> jax.Array:
        """Returns the outputs, [*batch, queries, heads, features]."""
        return y

    def run_and_note(
        self, run: Callable[[Any], jax.Array], x: jax.Array, kept: int | None = None
    ) -> jax.Array:
        """Returns run(x), and adds it to the summary; see `Use` for `kept`."""
        use = Use(
            self.spans.noise_shape,
            self.rate,
            self.key,
            active=self.active,
            shape=self.shape,
            kept=kept,
        )
        note(lambda: Where(None, "attention weights", "a key"), run, x, use)
        return run(x)

    def _sample(self, x: jax.Array, *, of_keys: bool) -> jax.Array:
        """Draws the mask of x, which is [*batch, keys or queries, heads, features]."""
        sharding = explicit_sharding(x)
        if sharding is not None:
            *batch, length, heads, _ = spec_of(x)
            spec = (*batch, heads, *((None, length) if of_keys else (length, None)))
            sizes = zip(spec, self.spans.noise_shape, strict=True)
            sharding = sharding.update(spec=P(*(names if n > 1 else None for names, n in sizes)))
        return sample_blocks(self.key, self.rate, self.spans, sharding)

    def _drawn_rate(self) -> Rate:
        return self.rate if self.spans.long_axes else drawn_rate(self.key, self.rate)

    def _scale_of_spans(self) -> jax.Array:
        return scale_by_position(no_seed_probability(self.rate, self.spans), self.spans)


class NothingDropped(AttentionDropout):
    """For a deterministic call, or a rate of exactly 0."""

    active = False


class EverythingDropped(AttentionDropout):
    """For a rate of exactly 1."""

    def drop_outputs(self, y: jax.Array) -> jax.Array:
        return self.run_and_note(jnp.zeros_like, y)


class ValuesDropped(AttentionDropout):
    """For a mask that all queries share."""

    def drop_values(self, value: jax.Array) -> jax.Array:
        heads, value_heads = self.shape[-3], value.shape[-2]
        if self.spans.noise_shape[-3] not in (1, value_heads):
            value = jnp.repeat(value, heads // value_heads, axis=-2)

        def run(value: jax.Array) -> jax.Array:
            mask = _from_keys(self._sample(value, of_keys=True))
            if not self.spans.long_axes:
                return apply_mask(value, mask, self._drawn_rate())
            return by_mask(kept_or_zero, mask, value, _from_keys(self._scale_of_spans()))

        return self.run_and_note(run, value)


class OutputsDropped(AttentionDropout):
    """For a mask that all keys share."""

    def drop_outputs(self, y: jax.Array) -> jax.Array:
        def run(y: jax.Array) -> jax.Array:
            mask = self._sample(y, of_keys=False)
            return apply_mask(y, jnp.swapaxes(mask, -2, -3), self._drawn_rate())

        return self.run_and_note(run, y)


class WeightsDropped(AttentionDropout):
    """For a mask with a draw for each query and key."""

    def drop_weights(self, weights: jax.Array) -> jax.Array:
        def run(weights: jax.Array) -> jax.Array:
            return drop(self.key, weights, self.rate, recipe_of_blocks(self.spans, "expected"))

        return self.run_and_note(run, weights)

    def prepare_tiles(self, value: jax.Array) -> tuple[jax.Array, MaskSource | None]:
        """Consumes the key, and scales the values, since a tile of weights is only masked."""
        key = check_key(self.key)
        words, rounds = words_and_rounds(key, self.spans.seed_shape, "dropout_rng")
        mark_as_used(key)
        threshold = keep_threshold(no_seed_probability(self._drawn_rate(), self.spans))

        def scaled(value: jax.Array) -> jax.Array:
            if not self.spans.long_axes:
                keep = keep_probability(self._drawn_rate())
                # At a rate of 1 a kernel keeps a weight now and then.
                return times(value, scale_of(keep) * (keep > 0).astype(jnp.float32))
            return times(value, _from_keys(self._scale_of_spans()))

        # The backward pass draws each mask again, so it keeps only the words of the key.
        value = self.run_and_note(scaled, value, kept=jax.random.key_data(key).nbytes)
        return value, MaskSource(words, threshold, rounds, self.spans)


def weights_dropout(dropout_rng: Key, x: Inputs, options: DropoutOptions) -> AttentionDropout:
    """Checks the options, and returns the dropout for the step in which the weights are dropped."""
    rate = scaled(partial(check_rate, name="dropout_rate"), options.dropout_rate)
    spans, shape = _resolve_spans(x.weights_shape, options), x.weights_shape
    if check_switch(options.deterministic, "deterministic") or is_static(rate, 0.0):
        nothing = NothingDropped(None, rate, spans, shape)
        nothing.run_and_note(jnp.asarray, x.query)
        return nothing
    *_, queries, keys = spans.noise_shape
    if spans.long_axes and is_symbolic(keys):
        raise ValueError(
            "span must be 1 if the number of keys is a symbolic size, because the number of "
            f"spans depends on it: got span={options.span} for {keys} keys"
        )
    if is_static(rate, 1.0):
        return EverythingDropped(None, rate, spans, shape)
    if dropout_rng is None:
        raise ValueError(
            "attention weights are dropped with a PRNG key unless the rate is the number 0 or 1: "
            "got dropout_rng=None; pass one, such as jax.random.key(0), or deterministic=True"
        )
    dropout_rng = check_key(dropout_rng, "dropout_rng")
    if options.axis_name is not None:
        dropout_rng = fold_in(dropout_rng, options.axis_name, "axis_name")
    # If keys == 1 too, drop values: they are replaced, so a NaN in one reaches no derivative.
    if queries == 1:
        kind: type[AttentionDropout] = ValuesDropped
    else:
        kind = OutputsDropped if keys == 1 else WeightsDropped
    return kind(dropout_rng, rate, spans, shape)


def _resolve_spans(shape: Shape, options: DropoutOptions) -> Blocks:
    """Returns the noise shape and the spans of the mask.

    Flax's argument broadcast_dropout is used unless noise_shape or broadcast_dims is given.
    """
    broadcast_dropout = check_switch(options.broadcast_dropout, "broadcast_dropout")
    noise_shape, broadcast_dims = options.noise_shape, options.broadcast_dims
    if noise_shape is None and broadcast_dims is None and broadcast_dropout:
        broadcast_dims = range(len(shape) - 2)
    *others, keys = resolve_noise_shape(shape, noise_shape, broadcast_dims, "weights")
    span = check_whole(options.span, "span", least=1, unit="key")
    if span > 1 and keys != shape[-1]:
        raise ValueError(
            "span is the number of keys that are dropped together, so the keys must not share one "
            "draw: "
            f"got span={span} with the noise shape {(*others, keys)} of the weights"
        )
    if span > 1 and is_at_most(keys, span):
        keys, span = 1, 1
    last = len(others)
    return Blocks((*others, keys), axes=(last,), sizes=(span,), batch_dims=last)


def _from_keys(array: jax.Array) -> jax.Array:
    """Moves [*batch, heads, 1, keys] to the axes of values, [*batch, keys, heads, 1]."""
    return jnp.swapaxes(array[..., 0, :], -1, -2)[..., None]
