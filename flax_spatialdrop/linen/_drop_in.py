"""Our dropout in Flax's own layers."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from .._apply import Recipe
from .._docs import completed_by
from .._drop_in import DropInReport, reason_of_attention, reason_of_call
from .._host import regularize
from .._ops.dropout import dropout
from .._scaling import Reentrant, check_scale, scale_rates
from .._summary import Where
from .._typing import Array, Key, Rate
from ._attention import dot_product_attention
from ._base import call_of
from ._intercept import CALL_OF_FLAX, intercept, noise_shape_of


@completed_by(dropout)
def drop_in(*, scale: Rate = 1.0) -> contextlib.AbstractContextManager[DropInReport]:
    """Makes this package run the dropout of Flax's own layers that are called inside.

        y = x * m / (1 - rate),   m the mask that Flax draws

    The masks are those of Flax, unless the key is a `fast_key`, and so are the outputs in float32
    (of attention up to rounding, and without Flax's NaN at a rate of 1). They take less memory. The
    arguments are checked as by `linen.Dropout` and `linen.dot_product_attention`: integer inputs
    and a rate outside [0, 1] raise an error. The context affects calls of these modules:

      - `flax.linen.Dropout`, and classes derived from it that do not override `__call__`. If a
        derived class overrides it and calls `super().__call__`, that call is affected.
      - `flax.linen.MultiHeadDotProductAttention` and classes derived from it whose `attention_fn`
        is `flax.linen.dot_product_attention`. Other functions stay, such as your own or a
        functools.partial of Flax's.

    It does not affect functions of Flax that are called without such a layer, nor NNX layers inside
    Linen (`flax.nnx.bridge.to_linen`): call `flax_spatialdrop.nnx.drop_in` in the constructor of
    the wrapped module. Flax, the model and other threads do not change; coroutines that run during
    an `await` inside are in the context too. A function that was jitted outside is traced again
    inside, and the other way round, but not one that was compiled ahead of time.

    Args:
      scale: multiplies the rates of the layers that are reached and of the modules of this package,
        as in `scale_rates` (default 1): a number or a scalar array, traced or not.

    Returns:
      A context manager, which returns a `DropInReport` when it is entered. Layers are added to the
      report when they are called or traced inside: a jitted function that was traced in such a
      context before adds none. It may be entered again, even inside itself, and decorates
      functions.

    Raises:
      ValueError, TypeError: as `scale_rates`; in calls inside, as `linen.Dropout` and
        `linen.dot_product_attention`.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import drop_in
      >>> attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=False)
      >>> model = nn.Sequential([nn.Dense(4), attention, nn.Dropout(0.5, deterministic=False)])
      >>> rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
      >>> with drop_in() as report:
      ...     y, variables = model.init_with_output(rngs, jnp.ones((2, 5, 3)))
      >>> report
      layer     run here
      layers_1  yes, flax.linen.MultiHeadDotProductAttention
      layers_2  yes, flax.linen.Dropout
    """
    scale = check_scale(scale)
    return Reentrant(lambda: _running_here(scale))


@contextlib.contextmanager
def _running_here(scale: Rate) -> Iterator[DropInReport]:
    report = DropInReport()
    with scale_rates(scale), intercept(_run_here), _filling(report):
        yield report


class _Reports(threading.local):
    """The reports of the contexts that enclose a call.

    The interceptor does not hold them, since it is part of the keys of JAX's caches.
    """

    def __init__(self) -> None:
        self.open: tuple[DropInReport, ...] = ()


_REPORTS = _Reports()


@contextlib.contextmanager
def _filling(report: DropInReport) -> Iterator[None]:
    before, _REPORTS.open = _REPORTS.open, (*_REPORTS.open, report)
    try:
        yield
    finally:
        _REPORTS.open = before


def _note_reached(layer: nn.Module) -> None:
    for report in _REPORTS.open:
        report.add_reached(layer.path, type(layer))


def _note_left(layer: nn.Module, reason: str) -> None:
    for report in _REPORTS.open:
        report.add_left(layer.path, reason)


def _run_here(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if context.method_name != "__call__" or module.scope is None:
        return call(*args, **kwargs)
    if getattr(context.orig_method, "func", None) is CALL_OF_FLAX:
        _note_reached(module)
        return _dropout(module, *args, **kwargs)
    if isinstance(module, nn.MultiHeadDotProductAttention):
        with _attending_here(module):
            return call(*args, **kwargs)
    if isinstance(module, nn.Dropout):
        _note_left(module, reason_of_call(type(module)))
    elif type(module).__module__.startswith("flax.nnx.bridge"):
        advice = "call flax_spatialdrop.nnx.drop_in in the constructor of the wrapped module"
        _note_left(module, f"NNX inside Linen: {advice}")
    return call(*args, **kwargs)


def _dropout(
    module: nn.Dropout, inputs: Array, deterministic: bool | None = None, rng: Key = None
) -> jax.Array:
    recipe = Recipe(noise_shape_of(module, inputs))
    call = call_of(module, deterministic, rng)

    def where() -> Where:
        found = call.where()
        return found._replace(module=f"{found.module}, run here")

    return regularize(call._replace(where=where), inputs, recipe, module.rate)


@contextlib.contextmanager
def _attending_here(layer: nn.MultiHeadDotProductAttention) -> Iterator[None]:
    theirs = layer.attention_fn
    if theirs is nn.dot_product_attention:
        _note_reached(layer)
        # Flax's modules are frozen; a clone would be another module of the scope.
        object.__setattr__(layer, "attention_fn", dot_product_attention)
    elif reason := reason_of_attention(theirs):
        _note_left(layer, reason)
    try:
        yield
    finally:
        object.__setattr__(layer, "attention_fn", theirs)
