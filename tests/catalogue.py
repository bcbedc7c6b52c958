"""One table of every regularizer; the contracts in test_contracts.py run over all of it."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flax_spatialdrop as fs
import flax_spatialdrop.linen
import flax_spatialdrop.nnx

FACES = ("function", "linen", "nnx")


def module_name(function_name):
    """spatial_dropout_1d -> SpatialDropout1D."""
    name = re.sub(r"_(\d)d$", r"_\1D", function_name)
    return "".join(part[0].upper() + part[1:] for part in name.split("_"))


class Kind(NamedTuple):
    """How a regularizer's masks are drawn and what values become, told by other means than its own.

    Every regularizer is affine in each value of x: y = slope * x + offset.
    """

    # mask(key, rate, noise_shape, **options)
    mask: Callable[..., Any] = lambda key, rate, shape, **_: fs.sample_mask(key, rate, shape)
    # affine(mask, rate, **options) -> (slope, offset), float64, each to be spread over x
    affine: Callable[..., tuple[Any, Any]] = lambda mask, rate, **_: (
        np.asarray(mask) * np.float64(np.float32(1) / np.float32(1 - rate) if rate < 1 else 0),
        0.0,
    )
    # residuals(shape, noise_shape): dtype and shape of what the derivative keeps
    residuals: Callable[..., list[Any]] = lambda shape, noise_shape: (
        [(jnp.uint32, (2,))] if shape == noise_shape else [(jnp.bool_, noise_shape)]
    )
    is_bernoulli: bool = True  # each entry of the mask is drawn on its own, at the rate
    needs_rate_below_1: bool = False


BERNOULLI = Kind()
UNSCALED = Kind(affine=lambda mask, rate, **_: (np.asarray(mask, np.float64), 0.0))


@dataclasses.dataclass(frozen=True)
class Case:
    """A regularizer with options, an input shape, the mask shape to expect for it, its kind."""

    function: Callable[..., jax.Array]
    shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    kind: Kind = BERNOULLI

    @property
    def id(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.function.__name__}{self.shape}{options}".replace(" ", "")

    def mask(self, key: jax.Array, rate: Any) -> Any:
        """The mask to expect, in noise shape."""
        return self.kind.mask(key, rate, self.noise_shape, **self.options)

    def slope_and_offset(self, key: jax.Array, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """What each value is multiplied by, and what is added to it, in the shape of x."""
        slope, offset = self.kind.affine(self.mask(key, rate), rate, **self.options)
        return np.broadcast_to(slope, self.shape), np.broadcast_to(offset, self.shape)

    def residuals(self) -> list[Any]:
        """Dtype and shape of what the derivative keeps; JAX keeps nothing of no elements."""
        return [] if 0 in self.shape else self.kind.residuals(self.shape, self.noise_shape)

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
    Case(fs.drop_path, (3, 4, 5), (1, 4, 1), {"batch_axis": -2}),
    Case(fs.drop_path, (3, 5), (1, 1), {"mode": "batch"}),
    Case(fs.drop_path, (3, 5), (3, 1), {"scale": False}, UNSCALED),
]
