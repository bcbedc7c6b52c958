"""The rows: programs that run with each library's dropout."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flax_spatialdrop import apply_mask, dropout, sample_mask

from . import pytorch
from .libraries import (
    CORE,
    ELEMENT_WISE,
    FAST_KERNEL,
    LIBRARIES,
    OURS_FAST,
    RATE,
    SPATIAL,
    Layer,
    layers,
)

COPY, NO_DROPOUT = "copy", "no dropout"
PASSES = ("forward", "pullback")
DTYPES = ("float32", "bfloat16")
PEER_SHAPES = ((32, 64, 64, 128), (64, 512, 768), (8, 3, 224, 224))
"""The shapes for every library. The other shapes compare to Flax only."""
LARGE_SHAPES = ((64, 64, 64, 128), (256, 64, 64, 128), (512, 64, 64, 128))
"""More shapes for every library, on accelerators: 128 MiB to 1 GiB of float32."""
SHAPES = (
    (2, 8, 8, 128),  # 64 KiB of float32
    (4, 16, 16, 128),  # 512 KiB
    (8, 32, 32, 128),  # 4 MiB
    (8, 3, 224, 224),  # 4.6 MiB: images with channels first, treated as channels last
    (32, 64, 64, 128),  # 64 MiB
    (64, 512, 768),  # 96 MiB
    (128, 64, 64, 128),  # 256 MiB
    (64, 512, 100),  # odd sizes of the last axis
    (64, 224, 224, 1),
    (32, 224, 224, 3),
    (64, 512, 512),  # the groups of a fast key lie along the last axis: it has one span of them
    (8, 1024, 1024),  # two spans
)
SHARED_BY = (2, 4, 8, 16)
DEPTH = 12


@dataclasses.dataclass(frozen=True)
class Case:
    """One row: the program of each contender, and the arrays for all of them."""

    section: str
    row: str
    baseline: str
    programs: dict[str, Callable[..., Any]]
    """Maps each contender to f(key, *arrays), which is jitted."""
    shapes: tuple[Any, ...]
    """The shapes of the arrays, or trees of them. The first has a leading batch axis."""
    eager: Callable[[], dict[str, Callable[[], Any]]] = dict
    """Returns a dict of contender -> f(), for libraries other than JAX with their own arrays."""
    backward: Callable[[str], Callable[..., Any]] | None = None
    """Maps a contender to its loss, to count the residuals of its gradient."""
    kernels: dict[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    """More contenders on TPUs: programs that run a Pallas kernel on a single chip."""

    @property
    def id(self) -> str:
        """The text that `--only` must match."""
        return f"{self.section}: {self.row}"


def cases() -> Iterator[Case]:
    """Yields every JAX program, in the order of the report."""
    yield from layer_cases()
    yield from line_cases()
    yield from network_cases()


def layer_cases() -> Iterator[Case]:
    """Yields one layer alone, forward and backward."""
    more = LARGE_SHAPES if jax.default_backend() != "cpu" else ()
    for kind in (SPATIAL, ELEMENT_WISE):
        for shape in (*SHAPES, *more):
            has_peers = shape in (*PEER_SHAPES, *LARGE_SHAPES)
            names = tuple(LIBRARIES) if has_peers else CORE
            for dtype in DTYPES:
                for direction in PASSES:
                    found = {COPY: copy, **layers(kind, len(shape), names)}
                    programs = {n: in_direction(f, direction) for n, f in found.items()}
                    yield Case(
                        section="layers",
                        row=f"{kind.name} {describe(dtype, shape)} {direction}",
                        baseline=COPY,
                        programs=programs,
                        kernels=with_kernel(programs),
                        shapes=(jax.ShapeDtypeStruct(shape, dtype),) * 2,
                        eager=partial(pytorch.programs, kind, dtype, shape, direction)
                        if has_peers
                        else dict,
                    )


def line_cases() -> Iterator[Case]:
    """Should a mask shared by few elements be drawn once, or hashed at every element of x?

    Hashing at every element costs at least as much as one draw per element.
    """
    for axis, place in ((1, "a middle"), (2, "the last")):
        for shared_by in SHARED_BY:
            shape = (32, shared_by, 2**17 // shared_by)
            if axis == 2:
                shape = (32, 2**17 // shared_by, shared_by)
            for direction in PASSES:
                found = {
                    COPY: copy,
                    "drawn once": drawn_once(axis),
                    "per element": lambda key, x: dropout(key, x, RATE),
                }
                yield Case(
                    section="line",
                    row=f"a draw shared by {shared_by} along {place} axis, {direction}",
                    baseline=COPY,
                    programs={n: in_direction(f, direction) for n, f in found.items()},
                    shapes=(jax.ShapeDtypeStruct(shape, "bfloat16"),) * 2,
                )


def network_cases() -> Iterator[Case]:
    """Yields the gradient of 12 layers, unrolled and as a scan."""
    for kind in (ELEMENT_WISE, SPATIAL):
        for form, build in {"chain": chain_loss, "scan": scan_loss}.items():
            found: dict[str, Layer] = {NO_DROPOUT: lambda key, x: x, **layers(kind, 4, CORE)}
            losses = {name: build(layer) for name, layer in found.items()}
            programs = {n: jax.grad(f, argnums=(1, 2)) for n, f in losses.items()}
            yield Case(
                section="networks",
                row=f"{form} of {DEPTH}, {kind.name}",
                baseline=NO_DROPOUT,
                programs=programs,
                kernels=with_kernel(programs),
                shapes=(
                    jax.ShapeDtypeStruct((32, 32, 32, 128), jnp.float32),
                    jax.ShapeDtypeStruct((DEPTH, 128, 128), jnp.float32),
                ),
                backward=losses.__getitem__,
            )


def with_kernel(programs: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Returns the program with a fast key again, if there is one: TPUs run it as a kernel."""
    return {FAST_KERNEL: programs[OURS_FAST]} if OURS_FAST in programs else {}


def copy(key: jax.Array, x: jax.Array) -> jax.Array:
    """Reads x once and writes it once, which is the least that any layer does."""
    return x * 2


def in_direction(layer: Layer, direction: str) -> Callable[..., jax.Array]:
    """Returns the layer, or its pullback, which maps a cotangent to a gradient."""
    if direction == "forward":
        return lambda key, x, ct: layer(key, x)
    return lambda key, x, ct: jax.vjp(lambda x: layer(key, x), x)[1](ct)[0]


def drawn_once(axis: int) -> Layer:
    """Returns a layer that stores its mask in noise shape and broadcasts it over x."""

    def layer(key: jax.Array, x: jax.Array) -> jax.Array:
        noise_shape = tuple(1 if a == axis else size for a, size in enumerate(x.shape))
        return apply_mask(x, sample_mask(key, RATE, noise_shape), RATE)

    return layer


def chain_loss(layer: Layer) -> Callable[..., jax.Array]:
    """Returns the loss of unrolled layers of tanh(h @ w) and dropout."""

    def loss(key: jax.Array, x: jax.Array, ws: jax.Array) -> jax.Array:
        for w, k in zip(ws, jax.random.split(key, len(ws)), strict=True):
            x = layer(k, jnp.tanh(x @ w))
        return x.sum()

    return loss


def scan_loss(layer: Layer) -> Callable[..., jax.Array]:
    """Returns the same loss as a scan over stacked weights."""

    def loss(key: jax.Array, x: jax.Array, ws: jax.Array) -> jax.Array:
        def step(x, w_and_key):
            w, k = w_and_key
            return layer(k, jnp.tanh(x @ w)), None

        return jax.lax.scan(step, x, (ws, jax.random.split(key, len(ws))))[0].sum()

    return loss


def describe(dtype: str, shape: tuple[int, ...]) -> str:
    """Returns a text such as f32[32, 64, 64, 128]."""
    return {"float32": "f32", "bfloat16": "bf16"}[dtype] + str(list(shape))
