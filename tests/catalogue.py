"""One table of every regularizer; the contracts in test_contracts.py run over all of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

import flax_spatialdrop as fs
import flax_spatialdrop.linen as fsl

FACES = ("function", "linen")


@dataclasses.dataclass(frozen=True)
class Case:
    """A regularizer with options, an input shape, and the mask shape to expect for it."""

    function: Callable[..., jax.Array]
    module: type[nn.Module]
    shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def id(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.function.__name__}{self.shape}{options}".replace(" ", "")

    def face(self, name: str) -> Callable[..., jax.Array]:
        """The regularizer as f(key, x, rate), through the function or a module."""
        if name == "function":
            return lambda key, x, rate: self.function(key, x, rate, **self.options)
        # The rate goes in at the call, where any value may be traced.
        layer = self.module(rate=0.1, **self.options)
        return lambda key, x, rate: layer.apply({}, x, False, key, rate=rate)


FIRST = {"data_format": "channels_first"}

CASES = [
    Case(fs.dropout, fsl.Dropout, (3, 4, 5), (3, 4, 5)),
    Case(fs.dropout, fsl.Dropout, (3, 0), (3, 0)),
    Case(fs.dropout, fsl.Dropout, (3, 2, 5), (3, 1, 5), {"noise_shape": (None, 1, 5)}),
    Case(fs.dropout, fsl.Dropout, (), ()),
    Case(fs.dropout, fsl.Dropout, (3, 4, 5), (3, 1, 5), {"noise_shape": (None, 1, 5)}),
    Case(fs.dropout, fsl.Dropout, (3, 4, 5), (3, 1, 1), {"broadcast_dims": (1, -1)}),
    Case(fs.spatial_dropout, fsl.SpatialDropout, (2, 3, 2, 2, 2, 5), (2, 1, 1, 1, 1, 5)),
    Case(fs.spatial_dropout, fsl.SpatialDropout, (4, 5), (1, 5), {"batch_dims": 0}),
    Case(fs.spatial_dropout_1d, fsl.SpatialDropout1D, (3, 4, 5), (3, 1, 5)),
    Case(fs.spatial_dropout_1d, fsl.SpatialDropout1D, (3, 5, 4), (3, 5, 1), FIRST),
    Case(fs.spatial_dropout_2d, fsl.SpatialDropout2D, (3, 2, 4, 5), (3, 1, 1, 5)),
    Case(fs.spatial_dropout_2d, fsl.SpatialDropout2D, (3, 5, 2, 4), (3, 5, 1, 1), FIRST),
    Case(fs.spatial_dropout_2d, fsl.SpatialDropout2D, (2, 4, 5), (1, 1, 5), {"batch_dims": 0}),
    Case(fs.spatial_dropout_3d, fsl.SpatialDropout3D, (3, 2, 2, 4, 5), (3, 1, 1, 1, 5)),
    Case(fs.timestep_dropout, fsl.TimestepDropout, (3, 4, 5), (3, 4, 1)),
    Case(fs.timestep_dropout, fsl.TimestepDropout, (3, 5, 4), (3, 1, 4), FIRST),
    Case(fs.feature_dropout, fsl.FeatureDropout, (3, 4, 5), (1, 1, 5)),
    Case(fs.feature_dropout, fsl.FeatureDropout, (3, 5, 4), (1, 5, 1), FIRST),
    Case(fs.sample_dropout, fsl.SampleDropout, (3, 4, 5), (3, 1, 1)),
    Case(fs.sample_dropout, fsl.SampleDropout, (2, 3, 4, 5), (2, 3, 1, 1), {"batch_dims": 2}),
    Case(fs.sample_dropout, fsl.SampleDropout, (3, 5), (3, 1), FIRST),
]
