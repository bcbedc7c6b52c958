"""PyTorch's dropout, beside a copy of its own.

PyTorch keeps the mask of the forward pass, so its "pullback" here is forward and backward: what
draws the mask and applies it to a cotangent, as in the other libraries' pullback.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax

from .libraries import RATE, Kind

PYTORCH, PYTORCH_COPY = "PyTorch", "PyTorch copy"


def pytorch() -> Any:
    """The module torch, told to leave the cores alone when it waits."""
    # Its idle threads would spin for a while, on the cores that the next library is timed on.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    return torch


def programs(
    kind: Kind, dtype: str, shape: tuple[int, ...], direction: str
) -> dict[str, Callable[[], Any]]:
    """The layer and a copy, as calls without arguments; none without PyTorch or beside a GPU."""
    if importlib.util.find_spec("torch") is None or jax.default_backend() != "cpu":
        return {}
    torch = pytorch()
    functional = torch.nn.functional
    layer = functional.dropout
    if kind.shared:
        layer = {3: functional.dropout1d, 4: functional.dropout2d}[len(shape)]
        shape = (shape[0], shape[-1], *shape[1:-1])  # its own layout: channels first
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
