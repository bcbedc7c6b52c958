"""PyTorch's dropout and a copy in PyTorch.

PyTorch keeps the mask of the forward pass, so its "pullback" includes both passes. The pullbacks of
the other libraries also draw the mask and apply it to a cotangent.
"""

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


def programs(
    kind: Kind, dtype: str, shape: tuple[int, ...], direction: str
) -> dict[str, Callable[[], Any]]:
    """Returns the layer and a copy as functions; {} without PyTorch or on a GPU."""
    if importlib.util.find_spec("torch") is None or jax.default_backend() != "cpu":
        return {}
    torch = pytorch()
    functional = torch.nn.functional
    layer = functional.dropout
    if kind.shared:
        layer = {3: functional.dropout1d, 4: functional.dropout2d}[len(shape)]
        shape = (shape[0], shape[-1], *shape[1:-1])  # PyTorch has channels first
    x = torch.ones(shape, dtype=getattr(torch, dtype))
    if direction == "forward":
        return {
            PYTORCH: lambda: layer(x, RATE, True),
            PYTORCH_COPY: lambda: x * 2,
        }
    leaf = x.clone().requires_grad_()

    def pullback() -> Any:
        return torch.autograd.grad(layer(leaf, RATE, True), leaf, x)

    return {PYTORCH: pullback, PYTORCH_COPY: lambda: x * 2}
