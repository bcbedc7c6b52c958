"""Networks that map hours of weather to the change of the temperature."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flax_spatialdrop import linen


class Places(NamedTuple):
    """Where a network with an LSTM drops: before it, after it, and by arguments of the LSTM."""

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
    """Dropout -> LSTM -> last output -> Dropout -> Dense, with the dropouts that `places` names.

    Attributes:
      hidden: the number of features of the LSTM's state.
      scale: the unit of the network's outputs, in degrees.
      places: where the network drops, at the rate of the call.
      dtype: the type to compute in. Parameters and outputs are float32.
    """

    hidden: int
    scale: float
    places: Places = Places()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps weather [batch, time, channel] to changes in degrees [batch]."""
        if self.places.before:
            x = linen.Dropout(rate, deterministic=deterministic)(x)
        inside: dict[str, Any] = dict.fromkeys(self.places.inside, rate)
        lstm = linen.LSTM(self.hidden, variant=self.places.variant, dtype=self.dtype, **inside)
        x = lstm(x, deterministic=deterministic)[:, -1]
        if self.places.after:
            x = linen.Dropout(rate, deterministic=deterministic)(x)
        return self.scale * nn.Dense(1, dtype=self.dtype)(x)[:, 0].astype(jnp.float32)


class ConvolutionalForecaster(nn.Module):
    """Convolutions over time -> Dense, with dropout of whole channels after each convolution.

    Feature maps have their channels first, [batch, channel, 1, time], so the noise shape is
    (None, channels, 1, 1).
    """

    hidden: int
    scale: float
    channels: bool = False
    layers: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps weather [batch, time, channel] to changes in degrees [batch]."""
        x = x.swapaxes(1, 2)[:, :, None]
        for _ in range(self.layers):
            # Flax's convolution needs channels last.
            convolve = nn.Conv(self.hidden, (1, 5), strides=(1, 3), dtype=self.dtype)
            x = nn.relu(convolve(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
            if self.channels:
                noise_shape = (None, self.hidden, 1, 1)
                x = linen.Dropout(rate, noise_shape=noise_shape, deterministic=deterministic)(x)
        x = nn.Dense(1, dtype=self.dtype)(x.reshape(len(x), -1))
        return self.scale * x[:, 0].astype(jnp.float32)
