"""Where dropout of attention weights is done: on the weights, or on what they stand for.

y[q] = sum over k of w[q, k] * value[k], so a mask that is the same for all queries may be applied
to the values, and one that is the same for all keys to the outputs. Neither has queries times keys
elements, and what is dropped there is selected away: no NaN or Inf in it reaches an output.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ._apply import apply_mask, by_mask, kept_or_zero, times
from ._axes import check_whole
from ._block_mask import sample_blocks, scale_by_position, unseeded_probability
from ._block_shape import Blocks
from ._choices import drop
from ._drop_block import choices_of
from ._mask import check_key, keep_threshold
from ._mask_block import words_and_rounds
from ._rates import is_static, keep_probability, scale_of
from ._typing import Key, Rate, Shape
from ._weights_mask import Law


class WeightsDropout(NamedTuple):
    """Dropout of weights [*batch, heads, queries, keys].

    Attributes:
      key: None will do at a rate of exactly 1.
      rate: the probability to drop, checked and not the number 0.
      blocks: the mask's noise shape, and the spans of keys that share a fate.
    """

    key: Key
    rate: Rate
    blocks: Blocks

    @property
    def place(self) -> str:
        """Where it is done: "values", "outputs" or "weights"."""
        *_, queries, keys = self.blocks.noise_shape
        if is_static(self.rate, 1.0):
            return "outputs"
        if queries == 1:  # before outputs, whose derivatives a NaN in a dropped value would reach
            return "values"
        return "outputs" if keys == 1 else "weights"

    def of_values(self, value: jax.Array, heads: int) -> jax.Array:
        """Values [*batch, keys, heads, features], dropped where that is the place."""
        if self.place != "values":
            return value
        if self.blocks.noise_shape[-3] not in (1, value.shape[-2]):
            value = jnp.repeat(value, heads // value.shape[-2], axis=-2)
        mask = _from_keys(sample_blocks(self.key, self.rate, self.blocks))
        if not self.blocks.long_axes:
            return apply_mask(value, mask, self.rate)
        return by_mask(kept_or_zero, mask, value, _from_keys(self._scale_of_spans()))

    def of_outputs(self, y: jax.Array) -> jax.Array:
        """Outputs [*batch, queries, heads, features], dropped where that is the place."""
        if self.place != "outputs":
            return y
        if is_static(self.rate, 1.0):
            return jnp.zeros_like(y)
        mask = sample_blocks(self.key, self.rate, self.blocks)
        return apply_mask(y, jnp.swapaxes(mask, -2, -3), self.rate)

    def of_weights(self, weights: jax.Array) -> jax.Array:
        """Whole weights, dropped where that is the place."""
        if self.place != "weights":
            return weights
        return drop(self.key, weights, self.rate, choices_of(self.blocks, "expected", weights))

    def law(self) -> tuple[Law, int]:
        """What draws any block of the mask of weights, and the rounds of its hash."""
        key = check_key(self.key)
        words, rounds = words_and_rounds(key, self.blocks.seed_shape)
        jax.random.bits(key, (0,))  # draws nothing, but marks the key as used
        return Law(words, keep_threshold(unseeded_probability(self.rate, self.blocks))), rounds

    def scaled(self, value: jax.Array) -> jax.Array:
        """Values scaled as the weights would be, which are dropped block by block."""
        if not self.blocks.long_axes:
            return times(value, scale_of(keep_probability(self.rate)))
        return times(value, _from_keys(self._scale_of_spans()))

    def _scale_of_spans(self):
        return scale_by_position(unseeded_probability(self.rate, self.blocks), self.blocks)


def span_blocks(noise_shape: Shape, span: int) -> Blocks:
    """The spans of keys in weights of a noise shape; of one as long as all of them, that is 1."""
    if check_whole(span, "span") < 1:
        raise ValueError(f"span must be at least 1 key: got span={span}")
    *others, keys = noise_shape
    if span > 1 and keys == 1:
        raise ValueError(
            "span counts keys that share a fate, so the mask must have draws of its own for them: "
            f"got span={span} with the noise shape {noise_shape} of the weights"
        )
    is_whole = span >= keys
    return Blocks(
        (*others, 1 if is_whole else keys),
        axes=(len(others),),
        sizes=(1 if is_whole else span,),
        batch_dims=len(others),
    )


def _from_keys(array):
    """From [*batch, heads, 1, keys] to the layout of values, [*batch, keys, heads, 1]."""
    return jnp.swapaxes(array[..., 0, :], -1, -2)[..., None]
