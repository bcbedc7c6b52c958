"""One table of every regularizer; the contracts in test_contracts.py run over all of it."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax

import flax_spatialdrop as fs
import flax_spatialdrop.linen
import flax_spatialdrop.nnx

FACES = ("function", "linen", "nnx")


def module_name(function_name):
    """spatial_dropout_1d -> SpatialDropout1D."""
    name = re.sub(r"_(\d)d$", r"_\1D", function_name)
    return "".join(part[0].upper() + part[1:] for part in name.split("_"))


@dataclasses.dataclass(frozen=True)
class Case:
    """A regularizer with options, an input shape, and the mask shape to expect for it."""

    function: Callable[..., jax.Array]
    shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def id(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.function.__name__}{self.shape}{options}".replace(" ", "")

    def module(self, face: str) -> Callable[..., Any]:
        """The module's class, of Linen or NNX."""
        return getattr(getattr(fs, face), module_name(self.function.__name__))

    def face(self, face: str) -> Callable[..., jax.Array]:
        """The regularizer as f(key, x, rate), through the function or a module."""
        if face == "function":
            return lambda key, x, rate: self.function(key, x, rate, **self.options)
        # The rate goes in at the call, where any value may be traced.
        layer = self.module(face)(rate=0.1, **self.options)
        if face == "linen":
            return lambda key, x, rate: layer.apply({}, x, False, key, rate=rate)
        return lambda key, x, rate: layer(x, rngs=key, rate=rate)


FIRST = {"data_format": "channels_first"}

CASES = [
    Case(fs.dropout, (3, 4, 5), (3, 4, 5)),
    Case(fs.dropout, (3, 0), (3, 0)),
    Case(fs.dropout, (3, 2, 5), (3, 1, 5), {"noise_shape": (None, 1, 5)}),
    Case(fs.dropout, (), ()),
    Case(fs.dropout, (3, 4, 5), (3, 1, 5), {"noise_shape": (None, 1, 5)}),
    Case(fs.dropout, (3, 4, 5), (3, 1, 1), {"broadcast_dims": (1, -1)}),
    Case(fs.spatial_dropout, (2, 3, 2, 2, 2, 5), (2, 1, 1, 1, 1, 5)),
    Case(fs.spatial_dropout, (4, 5), (1, 5), {"batch_dims": 0}),
    Case(fs.spatial_dropout_1d, (3, 4, 5), (3, 1, 5)),
    Case(fs.spatial_dropout_1d, (3, 5, 4), (3, 5, 1), FIRST),
    Case(fs.spatial_dropout_2d, (3, 2, 4, 5), (3, 1, 1, 5)),
    Case(fs.spatial_dropout_2d, (3, 5, 2, 4), (3, 5, 1, 1), FIRST),
    Case(fs.spatial_dropout_2d, (2, 4, 5), (1, 1, 5), {"batch_dims": 0}),
    Case(fs.spatial_dropout_3d, (3, 2, 2, 4, 5), (3, 1, 1, 1, 5)),
    Case(fs.timestep_dropout, (3, 4, 5), (3, 4, 1)),
    Case(fs.timestep_dropout, (3, 5, 4), (3, 1, 4), FIRST),
    Case(fs.feature_dropout, (3, 4, 5), (1, 1, 5)),
    Case(fs.feature_dropout, (3, 5, 4), (1, 5, 1), FIRST),
    Case(fs.sample_dropout, (3, 4, 5), (3, 1, 1)),
    Case(fs.sample_dropout, (2, 3, 4, 5), (2, 3, 1, 1), {"batch_dims": 2}),
    Case(fs.sample_dropout, (3, 5), (3, 1), FIRST),
]
