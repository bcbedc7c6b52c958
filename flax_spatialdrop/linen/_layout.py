"""The base of the modules that know the layout of x: batch, space and channel axes."""

import abc

import flax.linen as nn
import jax

from .._apply import check_input
from .._typing import Array, DataFormat, Key, Rate
from ._call import regularize


class LayoutDropout(nn.Module, abc.ABC):
    """The attributes and the call that all share; a subclass says the noise shape.

    Attributes:
      rate: probability to drop, in [0, 1]; a number or a scalar array.
      data_format: "channels_last" for [*batch, *space, channel], or "channels_first" for
        [*batch, channel, *space].
      batch_dims: how many leading axes are batch axes; 0 for one example.
      deterministic: True returns the inputs as they are; to be given here or at the call.
      rng_collection: the name of the stream that the key is asked of, when a mask is drawn.
    """

    rate: Rate
    data_format: DataFormat = "channels_last"
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @nn.nowrap  # else Flax would show it as a call of the module
    @abc.abstractmethod
    def _noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The mask's shape for inputs of `shape`."""

    @nn.compact
    def __call__(
        self,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        rate: Rate | None = None,
        mask: Array | None = None,
    ) -> jax.Array:
        """Applies the regularizer.

        Args:
          inputs: floating or complex, in the layout that the attributes say.
          deterministic: as the attribute; just one of the two must be given.
          rng: the key to draw with, in place of the stream's.
          rate: in place of the attribute, such as a schedule's value; may be traced.
          mask: bool, in noise shape or in the shape of inputs, used in place of a draw; ignored
            when deterministic or at a rate of exactly 0.

        Returns:
          An array of the shape and dtype of inputs.

        Raises:
          ValueError: for inputs of the wrong rank, a mask or rate that does not fit;
            `deterministic` given twice or never.
          TypeError: for integer or bool inputs, a traced `deterministic`, another type.
          flax.errors.InvalidRngError: when a mask is to be drawn and the stream is missing.
        """
        return regularize(
            self,
            inputs,
            self._noise_shape(check_input(inputs).shape),
            rate=self.rate if rate is None else rate,
            deterministic=deterministic,
            rng=rng,
            mask=mask,
        )
