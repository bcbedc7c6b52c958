"""The module of SpecAugment."""

from dataclasses import KW_ONLY
from typing import Any

import jax
from flax import nnx

from .._docs import completed_by
from .._host import draw_mask, regularize
from .._ops.fill import Fill
from .._ops.spans import SpecMasks, spec_augment, spec_recipe
from .._typing import Array, Rate
from ._base import Declared, Regularizer, call_of


class SpecAugment(Declared, of=spec_augment):
    """The module of `flax_spatialdrop.spec_augment`.

    Its mask is a pair: the mask of time, [*batch, time, 1], and the mask of frequency, [*batch, 1,
    frequency].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.nnx import SpecAugment
      >>> layer, lengths = SpecAugment(max_time_width=40), jnp.array([200, 150])
      >>> y = layer(jnp.ones((2, 200, 80)), rngs=jax.random.key(0), lengths=lengths)
    """

    _: KW_ONLY
    num_time_masks: int = 2
    max_time_width: int | Array = 100
    max_time_ratio: Rate = 1.0
    num_freq_masks: int = 2
    max_freq_width: int | Array = 27
    fill: Fill = 0.0

    @completed_by(regularize, Regularizer.__call__)
    def __call__(
        self,
        inputs: Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        lengths: int | Array | None = None,
        fill: Fill | None = None,
        mask: tuple[Array, Array] | None = None,
    ) -> jax.Array:
        """Hides spans of time and of frequency.

        Args:
          lengths: the number of frames of each sample, integers [*batch]; None if none is padded.
          fill: used in place of the attribute, such as a parameter of the model, [frequency].
          mask: used in place of a draw: the pair that `sample_mask` returns. It has no effect in a
            deterministic call.
        """
        recipe = self._recipe(inputs, lengths, self.fill if fill is None else fill)
        return regularize(call_of(self, deterministic, rngs), inputs, recipe, None, mask)

    @completed_by(draw_mask, Regularizer.sample_mask)
    def sample_mask(
        self,
        inputs: Array,
        *,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        lengths: int | Array | None = None,
    ) -> SpecMasks:
        """Draws the masks that a call with the same arguments would draw.

        Args:
          lengths: as at the call.

        Returns:
          The masks of time and of frequency, bool [*batch, time, 1] and [*batch, 1, frequency],
          True where a value is kept; all True if nothing would be hidden.
        """
        recipe = self._recipe(inputs, lengths, 0.0)
        masks: Any = draw_mask(call_of(self, deterministic, rngs), recipe, None)
        return SpecMasks(*masks)

    def _recipe(self, inputs: Array, lengths: int | Array | None, fill: Fill) -> Any:
        time = self.num_time_masks, self.max_time_width, self.max_time_ratio
        return spec_recipe(inputs, lengths, *time, self.num_freq_masks, self.max_freq_width, fill)
