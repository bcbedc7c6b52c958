"""The networks: hours of weather in, the change of the temperature out."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax

from flax_spatialdrop import linen


class Places(NamedTuple):
    """Where an LSTM's network drops: outside it, and by which of its own arguments."""

    before: bool = False
    after: bool = False
    inside: tuple[str, ...] = ()
    variant: Any = "variational"


LSTM_REGULARIZERS = {
    "none": Places(),
    "before": Places(before=True),
    "after": Places(after=True),
    "both": Places(before=True, after=True),
    "input mask": Places(inside=("dropout",)),
    "recurrent mask": Places(inside=("recurrent_dropout",)),
    "zoneout": Places(inside=("recurrent_dropout",), variant="zoneout"),
}
CNN_REGULARIZERS = ("CNN none", "CNN channels")


class RecurrentForecaster(nn.Module):
    """Dropout -> LSTM -> its last output -> Dropout -> Dense, with the dropouts of its places.

    Attributes:
      hidden: features of the LSTM's state.
      scale: of the changes, in degrees: the network computes in its unit.
      places: where the rate of the call drops.
    """

    hidden: int
    scale: float
    places: Places = Places()

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps weather [batch, time, channel] to changes in degrees [batch]."""
        if self.places.before:
            x = linen.Dropout(rate, deterministic=deterministic)(x)
        inside: dict[str, Any] = dict.fromkeys(self.places.inside, rate)
        lstm = linen.LSTM(self.hidden, variant=self.places.variant, **inside)
        x = lstm(x, deterministic=deterministic)[:, -1]
        if self.places.after:
            x = linen.Dropout(rate, deterministic=deterministic)(x)
        return self.scale * nn.Dense(1)(x)[:, 0]


class ConvolutionalForecaster(nn.Module):
    """Convolutions over time -> Dense, with whole channels dropped behind each convolution.

    Feature maps are channels first, [batch, channel, 1, time], and the dropout's noise shape is
    the (None, channels, 1, 1) that goes with that.
    """

    hidden: int
    scale: float
    channels: bool = False
    layers: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps weather [batch, time, channel] to changes in degrees [batch]."""
        x = x.swapaxes(1, 2)[:, :, None]
        for _ in range(self.layers):
            # Flax convolves with channels last.
            convolve = nn.Conv(self.hidden, (1, 5), strides=(1, 3))
            x = nn.relu(convolve(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
            if self.channels:
                noise_shape = (None, self.hidden, 1, 1)
                x = linen.Dropout(rate, noise_shape=noise_shape, deterministic=deterministic)(x)
        return self.scale * nn.Dense(1)(x.reshape(len(x), -1))[:, 0]
