"""What does DropBlock cost, compared to a copy of x, to torchvision's and to no dropout?

And which share does it drop for a given rate? For TPUs, the rows have a training step of a
ResNet-50 as well, with DropBlock after each block of its last two stages, as in the paper.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

import flax_spatialdrop.linen as fsl
from flax_spatialdrop import drop_block, fast_key

from .architectures import ResNet50
from .cases import COPY, NO_DROPOUT, PASSES, Case, copy, describe, in_direction
from .libraries import FLAX, OURS, OURS_FAST, RATE, Layer
from .pytorch import beside_a_copy, channels_first, device, pytorch
from .results import Record

SECTION = "drop block"
BLOCK = 7
SHARED, SAMPLE = "shared over channels", 'normalize="sample"'
ONE_WINDOW, TORCHVISION = "one window", "torchvision"
SPATIAL = "SpatialDropout2D"
HERE = (("float32", (32, 32, 32, 128)),)
ON_TPU = (("bfloat16", (16, 28, 28, 512)), ("bfloat16", (32, 14, 14, 1024)))
MAPS = (4096, 14, 14, 4)
STEP_SHAPE = (16, 224, 224, 3)


def cases() -> Iterator[Case]:
    """Yields one layer alone, for this machine."""
    for dtype, shape in HERE:
        for direction in PASSES:
            eager = partial(torchvision_programs, dtype, shape, direction)
            yield _layer_case(dtype, shape, direction, eager)


def measure(only: re.Pattern[str]) -> Iterator[Record]:
    """Yields the share that each contender drops for a given rate."""
    for rate in (0.1, 0.5):
        row = f"asked for {rate}, {MAPS[1]} x {MAPS[2]}, block {BLOCK}"
        if only.search(f"{SECTION}: {row}"):
            x = jnp.ones(MAPS)
            key = jax.random.key(0)
            found = {
                OURS: float(jnp.mean(drop_block(key, x, rate, block_size=BLOCK) == 0)),
                ONE_WINDOW: float(jnp.mean(one_window(key, x, rate) == 0)),
            }
            if (drop_block2d := torchvision_s()) is not None:
                found[TORCHVISION] = _share_of(drop_block2d, rate)
            yield Record(SECTION, row, "share of all values dropped", found, is_cost=False)


def torchvision_s() -> Callable[..., Any] | None:
    """Returns torchvision's function; None if it is missing or built for another PyTorch."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    pytorch()
    try:
        from torchvision.ops import drop_block2d
    except RuntimeError:
        return None
    return drop_block2d


def _share_of(drop_block2d: Callable[..., Any], rate: float) -> float:
    torch = pytorch()
    torch.manual_seed(0)
    y = drop_block2d(torch.ones((MAPS[0], MAPS[3], *MAPS[1:3])), rate, BLOCK)
    return float((y == 0).double().mean())


def cases_for_tpu() -> Iterator[Case]:
    """Yields one layer alone, and a training step."""
    for dtype, shape in ON_TPU:
        for direction in PASSES:
            yield _layer_case(dtype, shape, direction, dict)
    yield _step_case()


def _layer_case(
    dtype: str,
    shape: tuple[int, ...],
    direction: str,
    eager: Callable[[], dict[str, Callable[[], Any]]],
) -> Case:
    found: dict[str, Layer] = {
        COPY: copy,
        OURS: lambda key, x: drop_block(key, x, RATE, block_size=BLOCK),
        OURS_FAST: lambda key, x: drop_block(fast_key(key), x, RATE, block_size=BLOCK),
        SHARED: lambda key, x: drop_block(key, x, RATE, block_size=BLOCK, per_channel=False),
        SAMPLE: lambda key, x: drop_block(key, x, RATE, block_size=BLOCK, normalize="sample"),
        ONE_WINDOW: one_window,
    }
    return Case(
        section=SECTION,
        row=f"block {BLOCK}, {describe(dtype, shape)} {direction}",
        baseline=COPY,
        programs={name: in_direction(f, direction) for name, f in found.items()},
        shapes=(jax.ShapeDtypeStruct(shape, dtype),) * 2,
        eager=eager,
    )


def one_window(key: jax.Array, x: jax.Array, rate: float = RATE) -> jax.Array:
    """Computes DropBlock as torchvision does: one window of block size, one scale for the batch."""
    batch, high, wide, channels = x.shape
    inside = (high - BLOCK + 1, wide - BLOCK + 1)
    gamma = rate * high * wide / (BLOCK**2 * inside[0] * inside[1])
    seeds = jax.random.bernoulli(key, gamma, (batch, *inside, channels)).astype(x.dtype)
    window, around = (1, BLOCK, BLOCK, 1), (BLOCK - 1, BLOCK - 1)
    padding = ((0, 0), around, around, (0, 0))
    zero = jnp.zeros((), x.dtype)
    kept = 1 - lax.reduce_window(seeds, zero, lax.max, window, (1, 1, 1, 1), padding)
    return x * kept * (kept.size / kept.sum(dtype=jnp.float32)).astype(x.dtype)


def torchvision_programs(
    dtype: str, shape: tuple[int, ...], direction: str
) -> dict[str, Callable[[], Any]]:
    """Returns torchvision's layer and PyTorch's copy as functions without arguments, if installed.

    PyTorch keeps the mask of the forward pass, so the pullback includes both passes.
    """
    drop_block2d = torchvision_s()
    if drop_block2d is None or (place := device()) is None:
        return {}

    def layer(x: Any) -> Any:
        return drop_block2d(x, RATE, BLOCK)

    first = channels_first(shape)
    return beside_a_copy(TORCHVISION, layer, dtype, first, place, direction)


def _step_case() -> Case:
    images = jax.ShapeDtypeStruct(STEP_SHAPE, jnp.bfloat16)
    layers: dict[str, Callable[[], nn.Module] | None] = {
        NO_DROPOUT: None,
        OURS: partial(fsl.DropBlock, RATE, BLOCK, deterministic=False),
        SHARED: partial(fsl.DropBlock, RATE, BLOCK, False, deterministic=False),
        SPATIAL: partial(fsl.SpatialDropout2D, RATE, deterministic=False),
        FLAX: partial(nn.Dropout, RATE, deterministic=False),
    }
    optimizer = optax.sgd(0.1, momentum=0.9)
    model = ResNet50(after=None)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    state = (variables, jax.eval_shape(optimizer.init, variables["params"]))
    return Case(
        section=SECTION,
        row=f"training step of ResNet-50, {describe('bfloat16', STEP_SHAPE)}",
        baseline=NO_DROPOUT,
        programs={name: _step(ResNet50(after=layer), optimizer) for name, layer in layers.items()},
        shapes=(images, state),
    )


def _step(model: ResNet50, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    def step(key: jax.Array, images: jax.Array, state: Any) -> Any:
        variables, moments = state
        labels = jnp.arange(len(images)) % model.classes

        def loss(params: Any) -> Any:
            logits, others = model.apply(
                variables | {"params": params}, images, rngs={"dropout": key}, mutable="batch_stats"
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), others

        gradient, others = jax.grad(loss, has_aux=True)(variables["params"])
        updates, moments = optimizer.update(gradient, moments, variables["params"])
        return others | {"params": optax.apply_updates(variables["params"], updates)}, moments

    return step
