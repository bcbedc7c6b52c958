"""PyTorch's dropout and a copy in PyTorch.

PyTorch keeps the mask of the forward pass, so its "pullback" includes both passes. The pullbacks of
the other libraries also draw the mask and apply it to a cotangent.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax

from .libraries import RATE, Kind

PYTORCH, PYTORCH_COPY = "PyTorch", "PyTorch copy"


def pytorch() -> Any:
    """Imports torch, with threads that sleep when idle."""
    # By default idle threads spin for a while, which would slow down the next library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    return torch


def device() -> str | None:
    """Returns the name of JAX's device in PyTorch; None if PyTorch is missing or has no such."""
    backend = jax.default_backend()
    if importlib.util.find_spec("torch") is None:
        return None
    if backend == "gpu" and pytorch().cuda.is_available():
        return "cuda"
    return "cpu" if backend == "cpu" else None


@dataclasses.dataclass(frozen=True)
class Queued:
    """A result that PyTorch's GPU may still compute. `jax.block_until_ready` waits for it."""

    result: Any

    def block_until_ready(self) -> "Queued":
        """Waits for all work of the GPU."""
        pytorch().cuda.synchronize()
        return self


def awaitable(calls: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """Returns the calls with results that `jax.block_until_ready` waits for, as for JAX's own."""
    if device() == "cpu":
        return calls

    def queued(call: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: Queued(call())

    return {name: queued(call) for name, call in calls.items()}


def programs(
    kind: Kind, dtype: str, shape: tuple[int, ...], direction: str
) -> dict[str, Callable[[], Any]]:
    """Returns the layer and a copy as functions; {} if PyTorch has no such device."""
    if (place := device()) is None:
        return {}
    functional = pytorch().nn.functional
    layer = functional.dropout
    if kind.shared:
        layer = {3: functional.dropout1d, 4: functional.dropout2d}[len(shape)]
        shape = channels_first(shape)
    return beside_a_copy(PYTORCH, lambda x: layer(x, RATE, True), dtype, shape, place, direction)


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in PyTorch's layout."""
    return (shape[0], shape[-1], *shape[1:-1])


def beside_a_copy(
    name: str,
    layer: Callable[[Any], Any],
    dtype: str,
    shape: tuple[int, ...],
    place: str,
    direction: str,
) -> dict[str, Callable[[], Any]]:
    """Returns one direction of a layer of PyTorch and a copy, as functions without arguments."""
    torch = pytorch()
    x = torch.ones(shape, dtype=getattr(torch, dtype), device=place)
    leaf = x.clone().requires_grad_()

    def forward() -> Any:
        return layer(x)

    def pullback() -> Any:
        return torch.autograd.grad(layer(leaf), leaf, x)

    run = forward if direction == "forward" else pullback
    return awaitable({name: run, PYTORCH_COPY: lambda: x * 2})
