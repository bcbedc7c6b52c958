"""Each library's dropout, as a function of a key and x.

A library that is not installed, or that has no such layer, is left out of a row. All drop at the
same rate; all draw anew from the key they are given.
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
FLAX, FLAX_AGAIN = "Flax", "Flax again"

Layer = Callable[[jax.Array, jax.Array], jax.Array]


class Kind(NamedTuple):
    """What is dropped: each element alone, or (shared) all of an example's channel together."""

    name: str
    shared: bool

    def shared_axes(self, rank: int) -> tuple[int, ...]:
        """The axes of [batch, *space, channel] that share a draw."""
        return tuple(range(1, rank - 1)) if self.shared else ()


ELEMENT_WISE = Kind("element-wise", shared=False)
SPATIAL = Kind("spatial", shared=True)


def ours(kind: Kind, rank: int) -> Layer:
    """The Linen module that stands where Flax's would."""
    axes = kind.shared_axes(rank)
    return _applied(fsl.Dropout(RATE, broadcast_dims=axes, deterministic=False))


def ours_fast(kind: Kind, rank: int) -> Layer | None:
    """The same with fast keys, which matter where every element has a draw of its own."""
    if kind.shared:
        return None
    layer = ours(kind, rank)
    return lambda key, x: layer(fast_key(key), x)


def flax(kind: Kind, rank: int) -> Layer:
    """Flax's own module."""
    axes = kind.shared_axes(rank)
    return _applied(nn.Dropout(RATE, broadcast_dims=axes, deterministic=False))


def _applied(module: nn.Module) -> Layer:
    def layer(key: jax.Array, x: jax.Array) -> Any:
        return module.apply({}, x, rngs={"dropout": key})

    return layer


def haiku(kind: Kind, rank: int) -> Layer:
    """Haiku's function."""
    import haiku as hk

    axes = kind.shared_axes(rank)
    return lambda key, x: hk.dropout(key, RATE, x, broadcast_dims=axes)


def equinox(kind: Kind, rank: int) -> Layer | None:
    """Equinox's module, which drops single elements only."""
    import equinox as eqx

    if kind.shared:
        return None
    layer = eqx.nn.Dropout(RATE)
    return lambda key, x: layer(x, key=key)


def keras(kind: Kind, rank: int) -> Layer:
    """Keras's layer on its JAX backend, called as a pure function of its seed's state."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras as k

    spatial = {3: k.layers.SpatialDropout1D, 4: k.layers.SpatialDropout2D}
    # Without a dtype of its own the layer would cast bfloat16 to float32.
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
    FLAX_AGAIN: flax,  # compiled twice: how far equal programs differ is the noise of a row
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
"""The module of each library of the extra `peers`."""
CORE = (OURS, OURS_FAST, FLAX, FLAX_AGAIN)


def missing() -> list[str]:
    """The libraries of the extra `peers` that are not installed."""
    return [name for name, module in PEERS.items() if importlib.util.find_spec(module) is None]


def layers(kind: Kind, rank: int, names: tuple[str, ...] = tuple(LIBRARIES)) -> dict[str, Layer]:
    """The layer of each library named that is installed and has one."""
    absent = missing()
    found = {name: LIBRARIES[name](kind, rank) for name in names if name not in absent}
    return {name: layer for name, layer in found.items() if layer is not None}


def versions() -> dict[str, str]:
    """The version of every package that is measured."""
    packages = ["jax", "jaxlib", "flax", "flax-spatialdrop"]
    for name, module in PEERS.items():
        if name not in missing():
            packages.append("dm-haiku" if module == "haiku" else module)
    return {package: importlib.metadata.version(package) for package in packages}
