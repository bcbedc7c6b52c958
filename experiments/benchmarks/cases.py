"""The rows: programs written once, around each library's dropout."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from flax_spatialdrop import apply_mask, dropout, sample_mask

from . import pytorch
from .libraries import CORE, ELEMENT_WISE, LIBRARIES, RATE, SPATIAL, Layer, layers

COPY, NO_DROPOUT = "copy", "no dropout"
PASSES = ("forward", "pullback")
DTYPES = ("float32", "bfloat16")
PEER_SHAPES = ((32, 64, 64, 128), (64, 512, 768), (8, 3, 224, 224))
"""Those that every library is measured at; the others compare to Flax alone."""
SHAPES = (
    (2, 8, 8, 128),  # 64 KiB of float32
    (4, 16, 16, 128),  # 512 KiB
    (8, 32, 32, 128),  # 4 MiB
    (8, 3, 224, 224),  # 4.6 MiB: an image batch with its channels first, read as channels last
    (32, 64, 64, 128),  # 64 MiB
    (64, 512, 768),  # 96 MiB
    (128, 64, 64, 128),  # 256 MiB
    (64, 512, 100),  # odd sizes of the last axis
    (64, 224, 224, 1),
    (32, 224, 224, 3),
)
SHARED_BY = (2, 4, 8, 16)
DEPTH = 12


@dataclasses.dataclass(frozen=True)
class Case:
    """One row: what each contender computes from a key and the same arrays."""

    section: str
    row: str
    baseline: str
    programs: dict[str, Callable[..., Any]]
    """Contender -> f(key, *arrays), to be jitted."""
    shapes: tuple[Any, ...]
    """Of the arrays, or of trees of them; the first is an array with a batch axis in front."""
    eager: Callable[[], dict[str, Callable[[], Any]]] = dict
    """Makes contender -> f(), for libraries outside JAX, which bring their own arrays."""
    backward: Callable[[str], Callable[..., Any]] | None = None
    """Contender -> the loss whose gradient the program is, to count what it keeps."""

    @property
    def id(self) -> str:
        """What a pattern of rows is matched with."""
        return f"{self.section}: {self.row}"


def cases() -> Iterator[Case]:
    """Every row that is a JAX program, in the order of the report."""
    yield from layer_cases()
    yield from line_cases()
    yield from network_cases()


def layer_cases() -> Iterator[Case]:
    """One layer alone, forward and backward."""
    for kind in (SPATIAL, ELEMENT_WISE):
        for shape in SHAPES:
            names = tuple(LIBRARIES) if shape in PEER_SHAPES else CORE
            for dtype in DTYPES:
                for direction in PASSES:
                    found = {COPY: copy, **layers(kind, len(shape), names)}
                    yield Case(
                        section="layers",
                        row=f"{kind.name} {describe(dtype, shape)} {direction}",
                        baseline=COPY,
                        programs={n: in_direction(f, direction) for n, f in found.items()},
                        shapes=(jax.ShapeDtypeStruct(shape, dtype),) * 2,
                        eager=partial(pytorch.programs, kind, dtype, shape, direction)
                        if shape in PEER_SHAPES
                        else dict,
                    )


def line_cases() -> Iterator[Case]:
    """Should a mask shared by a few be drawn once, or hashed at every element of x?

    Hashing it at every element costs at least what a draw per element costs.
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
    """The gradient of 12 layers, written out and as a scan: what dropout adds to training."""
    for kind in (ELEMENT_WISE, SPATIAL):
        for form, build in {"chain": chain_loss, "scan": scan_loss}.items():
            found: dict[str, Layer] = {NO_DROPOUT: lambda key, x: x, **layers(kind, 4, CORE)}
            losses = {name: build(layer) for name, layer in found.items()}
            yield Case(
                section="networks",
                row=f"{form} of {DEPTH}, {kind.name}",
                baseline=NO_DROPOUT,
                programs={n: jax.grad(f, argnums=(1, 2)) for n, f in losses.items()},
                shapes=(
                    jax.ShapeDtypeStruct((32, 32, 32, 128), jnp.float32),
                    jax.ShapeDtypeStruct((DEPTH, 128, 128), jnp.float32),
                ),
                backward=losses.__getitem__,
            )


def copy(key: jax.Array, x: jax.Array) -> jax.Array:
    """What bounds every layer here: x read once and written once."""
    return x * 2


def in_direction(layer: Layer, direction: str) -> Callable[..., jax.Array]:
    """The layer, or its pullback: the gradient it makes of a cotangent."""
    if direction == "forward":
        return lambda key, x, ct: layer(key, x)
    return lambda key, x, ct: jax.vjp(lambda x: layer(key, x), x)[1](ct)[0]


def drawn_once(axis: int) -> Layer:
    """A mask drawn in its noise shape and written down, then spread over x."""

    def layer(key: jax.Array, x: jax.Array) -> jax.Array:
        noise_shape = tuple(1 if a == axis else size for a, size in enumerate(x.shape))
        return apply_mask(x, sample_mask(key, RATE, noise_shape), RATE)

    return layer


def chain_loss(layer: Layer) -> Callable[..., jax.Array]:
    """The loss of tanh(h @ w) and dropout, layer after layer, as one long program."""

    def loss(key: jax.Array, x: jax.Array, ws: jax.Array) -> jax.Array:
        for w, k in zip(ws, jax.random.split(key, len(ws)), strict=True):
            x = layer(k, jnp.tanh(x @ w))
        return x.sum()

    return loss


def scan_loss(layer: Layer) -> Callable[..., jax.Array]:
    """The same as a loop over the stacked weights."""

    def loss(key: jax.Array, x: jax.Array, ws: jax.Array) -> jax.Array:
        def step(x, w_and_key):
            w, k = w_and_key
            return layer(k, jnp.tanh(x @ w)), None

        return jax.lax.scan(step, x, (ws, jax.random.split(key, len(ws))))[0].sum()

    return loss


def describe(dtype: str, shape: tuple[int, ...]) -> str:
    """Such as f32[32, 64, 64, 128]."""
    return {"float32": "f32", "bfloat16": "bf16"}[dtype] + str(list(shape))
