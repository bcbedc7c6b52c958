"""Our dropout in Flax's own layers."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from .._apply import Recipe
from .._docs import completed_by
from .._host import regularize
from .._ops.dropout import dropout
from .._summary import Where
from .._typing import Array, Key
from ._attention import dot_product_attention
from ._base import call_of
from ._intercept import intercept, noise_shape_of


@completed_by(dropout)
def drop_in() -> contextlib.AbstractContextManager[None]:
    """Makes this package run the dropout of Flax's own layers that are called inside.

        y = x * m / (1 - rate),   m the mask that Flax draws

    The masks are those of Flax, and so are the outputs in float32 (of attention up to rounding, and
    without Flax's NaN at a rate of 1). They take less memory. The arguments are checked as by
    `linen.Dropout` and `linen.dot_product_attention`: integer inputs and a rate outside [0, 1]
    raise an error. The context affects calls of these modules:

      - `flax.linen.Dropout`, but not classes derived from it;
      - `flax.linen.MultiHeadDotProductAttention` and classes derived from it whose `attention_fn`
        is `flax.linen.dot_product_attention`. Other functions stay, such as your own or a
        functools.partial of Flax's.

    It does not affect functions of Flax that are called without such a layer, nor NNX layers inside
    Linen (`flax.nnx.bridge.to_linen`): call `flax_spatialdrop.nnx.drop_in` in the constructor of
    the wrapped module. Flax, the model and other threads do not change; coroutines that run during
    an `await` inside are in the context too. A function that was jitted outside is traced again
    inside, and the other way round, but not one that was compiled ahead of time.

    Returns:
      A context manager. It may be entered again, even inside itself, and decorates functions.

    Raises:
      ValueError, TypeError: in calls inside, as `linen.Dropout` and `linen.dot_product_attention`.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import drop_in
      >>> attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=False)
      >>> model = nn.Sequential([nn.Dense(4), attention, nn.Dropout(0.5, deterministic=False)])
      >>> rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
      >>> with drop_in():
      ...     y, variables = model.init_with_output(rngs, jnp.ones((2, 5, 3)))
    """
    return _DropIn()


class _DropIn(contextlib.ContextDecorator, threading.local):
    def __init__(self) -> None:
        self._entered: list[contextlib.AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        entered = intercept(_run_here)
        entered.__enter__()
        self._entered.append(entered)

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)


def _run_here(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if context.method_name == "__call__":
        # Not isinstance, which would replace the code of derived classes.
        if type(module) is nn.Dropout:
            return _dropout(module, *args, **kwargs)
        if isinstance(module, nn.MultiHeadDotProductAttention):
            with _attending_here(module):
                return call(*args, **kwargs)
    return call(*args, **kwargs)


def _dropout(
    module: nn.Dropout, inputs: Array, deterministic: bool | None = None, rng: Key = None
) -> jax.Array:
    recipe = Recipe(noise_shape_of(module, inputs))
    call = call_of(module, deterministic, rng)

    def where() -> Where:
        return call.where()._replace(module="flax.linen.Dropout, run here")

    return regularize(call._replace(where=where), inputs, recipe, module.rate)


@contextlib.contextmanager
def _attending_here(layer: nn.MultiHeadDotProductAttention) -> Iterator[None]:
    theirs = layer.attention_fn
    if theirs is nn.dot_product_attention:
        # Flax's modules are frozen; a clone would be another module of the scope.
        object.__setattr__(layer, "attention_fn", dot_product_attention)
    try:
        yield
    finally:
        object.__setattr__(layer, "attention_fn", theirs)
