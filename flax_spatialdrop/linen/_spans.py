"""The module of SpecAugment."""

from typing import Any

import flax.linen as nn
import jax

from .._docs import completed_by
from .._host import draw_mask, regularize
from .._ops.fill import Fill
from .._ops.spans import SpecMasks, spec_augment, spec_recipe
from .._typing import Array, AxisNames, Key, Rate
from ._base import Regularizer, Stochastic, call_of


class SpecAugment(Stochastic, of=spec_augment):
    """The module of `flax_spatialdrop.spec_augment`.

    Its mask is a pair: the mask of time, [*batch, time, 1], and the mask of frequency, [*batch, 1,
    frequency].

    Attributes:
      deterministic: True returns the inputs as they are; to be given here or at the call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpecAugment
      >>> layer, rngs = SpecAugment(max_time_width=40), {"dropout": jax.random.key(0)}
      >>> x, lengths = jnp.ones((2, 200, 80)), jnp.array([200, 150])
      >>> y = layer.apply({}, x, deterministic=False, lengths=lengths, rngs=rngs)
    """

    num_time_masks: int = 2
    max_time_width: int | Array = 100
    max_time_ratio: Rate = 1.0
    num_freq_masks: int = 2
    max_freq_width: int | Array = 27
    fill: Fill = 0.0
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None

    @nn.compact
    @completed_by(regularize, Regularizer.__call__)
    def __call__(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
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
        return regularize(call_of(self, deterministic, rng), inputs, recipe, None, mask)

    @completed_by(draw_mask, Regularizer.sample_mask)
    def sample_mask(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
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
        masks: Any = draw_mask(call_of(self, deterministic, rng), recipe, None)
        return SpecMasks(*masks)

    @nn.nowrap
    def _recipe(self, inputs: Array, lengths: int | Array | None, fill: Fill) -> Any:
        time = self.num_time_masks, self.max_time_width, self.max_time_ratio
        return spec_recipe(inputs, lengths, *time, self.num_freq_masks, self.max_freq_width, fill)
