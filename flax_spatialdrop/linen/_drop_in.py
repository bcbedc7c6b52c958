"""One line for a model that exists: the dropout of Flax's own layers, run by this package."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from .._checks import check_input
from .._choices import Choices
from .._noise_shape import resolve_noise_shape
from .._typing import Array, Key
from ._attention import dot_product_attention
from ._call import regularize
from ._intercept import intercept


def drop_in() -> contextlib.AbstractContextManager[None]:
    """Runs the dropout of Flax's own layers, where they are called inside, by this package.

        y = x * m / (1 - rate),   m the mask that Flax draws

    Same masks, in float32 same outputs (of attention up to rounding, and without Flax's NaN at a
    rate of 1), less memory, and where each element has a draw of its own less time. The arguments
    are checked as those of `linen.Dropout` and `linen.dot_product_attention` here (integer inputs
    and a rate outside [0, 1] are refused). Neither Flax nor the model is changed: outside the
    context, and in other threads, all is as it was. A function jitted outside is traced again
    inside, and the other way round; one that was compiled ahead of time (`lower`, `compile`) stays
    what it was compiled as. An interceptor of your own, entered inside, does not see the calls of
    `flax.linen.Dropout`.

    Reached are, wherever they are (in setup, compact or Sequential, under nn.scan, nn.remat,
    nn.vmap, nn.jit), calls of modules
      - whose class is `flax.linen.Dropout` itself; not those of derived classes;
      - of `flax.linen.MultiHeadDotProductAttention` and all classes derived from it (Flax's
        `MultiHeadAttention` and `SelfAttention`, your own) whose `attention_fn` is
        `flax.linen.dot_product_attention` itself: for the time of the call it is the one of
        `flax_spatialdrop.linen`. One of your own, a functools.partial of Flax's too, is left alone.

    Not reached are functions of Flax that are called without such a layer, and NNX layers inside
    Linen (`flax.nnx.bridge.to_linen`): `flax_spatialdrop.nnx.drop_in` is for those, in the
    constructor of the module that is wrapped.

    The context is that of the thread: in a coroutine, others that run during an `await` inside are
    in it too, so leave it before.

    Returns:
      A context manager, which may be entered again, inside itself too, and decorates functions.

    Raises:
      ValueError, TypeError: from calls inside, as `linen.Dropout` and `linen.dot_product_attention`
        raise them.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import drop_in
      >>> attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=False)
      >>> model = nn.Sequential([nn.Dense(4), attention, nn.Dropout(0.5, deterministic=False)])
      >>> rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
      >>> with drop_in():
      ...     y, variables = model.init_with_output(rngs, jnp.ones((2, 5, 3)))

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
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


def _run_here(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if context.method_name == "__call__":
        # Not isinstance: what a derived class adds would be lost.
        if type(module) is nn.Dropout:
            return _dropout(module, *args, **kwargs)
        if isinstance(module, nn.MultiHeadDotProductAttention):
            with _attending_here(module):
                return call(*args, **kwargs)
    return call(*args, **kwargs)


def _dropout(
    module: nn.Dropout, inputs: Array, deterministic: bool | None = None, rng: Key = None
) -> jax.Array:
    return regularize(
        module,
        inputs,
        Choices(resolve_noise_shape(check_input(inputs).shape, None, module.broadcast_dims)),
        rate=module.rate,
        deterministic=deterministic,
        rng=rng,
        mask=None,
    )


@contextlib.contextmanager
def _attending_here(layer: nn.MultiHeadDotProductAttention) -> Iterator[None]:
    theirs = layer.attention_fn
    if theirs is nn.dot_product_attention:
        # As Flax sets fields of its frozen modules; a clone would be another module of the scope.
        object.__setattr__(layer, "attention_fn", dot_product_attention)
    try:
        yield
    finally:
        object.__setattr__(layer, "attention_fn", theirs)
