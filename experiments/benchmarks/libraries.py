"""Each library's dropout, as a function of a key and x.

Rows leave out libraries that are not installed or have no such layer. All drop at the same rate and
draw a new mask from their key.
"""

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax

import flax_spatialdrop.linen as fsl
from flax_spatialdrop import fast_key

RATE = 0.1
OURS, OURS_FAST = "flax_spatialdrop", "with fast_key"
FAST_KERNEL = "with fast_key, kernel"
FLAX, FLAX_AGAIN = "Flax", "Flax again"

Layer = Callable[[jax.Array, jax.Array], jax.Array]


class Kind(NamedTuple):
    """A kind of dropout: of single elements, or (shared) of whole channels of an example."""

    name: str
    shared: bool

    def shared_axes(self, rank: int) -> tuple[int, ...]:
        """Returns the axes of [batch, *space, channel] that share a draw."""
        return tuple(range(1, rank - 1)) if self.shared else ()


ELEMENT_WISE = Kind("element-wise", shared=False)
SPATIAL = Kind("spatial", shared=True)


def ours(kind: Kind, rank: int) -> Layer:
    """Returns this library's Linen module."""
    axes = kind.shared_axes(rank)
    return _applied(fsl.Dropout(RATE, broadcast_dims=axes, deterministic=False))


def ours_fast(kind: Kind, rank: int) -> Layer | None:
    """Returns the same with fast keys, if every element has its own draw."""
    if kind.shared:
        return None
    layer = ours(kind, rank)
    return lambda key, x: layer(fast_key(key), x)


def flax(kind: Kind, rank: int) -> Layer:
    """Returns Flax's own module."""
    axes = kind.shared_axes(rank)
    return _applied(nn.Dropout(RATE, broadcast_dims=axes, deterministic=False))


def _applied(module: nn.Module) -> Layer:
    def layer(key: jax.Array, x: jax.Array) -> Any:
        return module.apply({}, x, rngs={"dropout": key})

    return layer


def haiku(kind: Kind, rank: int) -> Layer:
    """Returns Haiku's function."""
    import haiku as hk

    axes = kind.shared_axes(rank)
    return lambda key, x: hk.dropout(key, RATE, x, broadcast_dims=axes)


def equinox(kind: Kind, rank: int) -> Layer | None:
    """Returns Equinox's module, which drops single elements only."""
    import equinox as eqx

    if kind.shared:
        return None
    layer = eqx.nn.Dropout(RATE)
    return lambda key, x: layer(x, key=key)


def keras(kind: Kind, rank: int) -> Layer:
    """Returns Keras's layer on the JAX backend, as a pure function of its seed state."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras as k

    spatial = {3: k.layers.SpatialDropout1D, 4: k.layers.SpatialDropout2D}
    # Without an explicit dtype, the layer would cast bfloat16 to float32.
    layers: dict[Any, Any] = {}

    def call(key: jax.Array, x: jax.Array) -> jax.Array:
        dtype = x.dtype.name
        if dtype not in layers:
            layers[dtype] = (spatial[rank] if kind.shared else k.layers.Dropout)(RATE, dtype=dtype)
        y, _ = layers[dtype].stateless_call([], [jax.random.key_data(key)], x, training=True)
        return y

    return call


LIBRARIES: dict[str, Callable[[Kind, int], Layer | None]] = {
    OURS: ours,
    OURS_FAST: ours_fast,
    FLAX: flax,
    FLAX_AGAIN: flax,  # compiled twice, to measure the noise of a row
    "Haiku": haiku,
    "Equinox": equinox,
    "Keras": keras,
}
PEERS = {
    "Haiku": "haiku",
    "Equinox": "equinox",
    "Keras": "keras",
    "PyTorch": "torch",
    "torchvision": "torchvision",
}
"""The Python module of each library in the extra `peers`."""
CORE = (OURS, OURS_FAST, FLAX, FLAX_AGAIN)


def missing() -> list[str]:
    """Returns the libraries of the extra `peers` that are not installed."""
    return [name for name, module in PEERS.items() if importlib.util.find_spec(module) is None]


def layers(kind: Kind, rank: int, names: tuple[str, ...] = tuple(LIBRARIES)) -> dict[str, Layer]:
    """Returns the layer of each named library that is installed and has one."""
    absent = missing()
    found = {name: LIBRARIES[name](kind, rank) for name in names if name not in absent}
    return {name: layer for name, layer in found.items() if layer is not None}


def versions() -> dict[str, str]:
    """Returns the version of every measured package."""
    packages = ["jax", "jaxlib", "flax", "flax-spatialdrop"]
    for name, module in PEERS.items():
        if name not in missing():
            packages.append("dm-haiku" if module == "haiku" else module)
    return {package: importlib.metadata.version(package) for package in packages}
