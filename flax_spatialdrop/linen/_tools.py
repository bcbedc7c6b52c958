"""A summary of a Linen model's dropout, and our dropout in Flax's own layers."""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from .._apply import Recipe
from .._checks import check_callable, check_input, check_key, check_name, shown
from .._compat import is_trial_of_scan
from .._docs import completed_by
from .._host import regularize, run_layer_of_flax
from .._noise_shape import resolve_noise_shape
from .._ops.dropout import dropout
from .._summary import Summary, Where, current_recorder, summarize_run, unrecorded, with_zeros
from .._typing import Array, Key, Shape
from ._attention import dot_product_attention
from ._base import call_of


@completed_by(summarize_run)
def summarize(
    model: nn.Module,
    *args: Any,
    rngs: Mapping[str, jax.Array] | jax.Array | None = None,
    **kwargs: Any,
) -> Summary:
    """The pass is `model.apply(variables, *args, rngs=rngs, **kwargs)` with variables of zeros.

    A remark names NNX modules inside the model (`flax.nnx.bridge.to_linen`), since Flax's own
    layers in them are not listed.

    Args:
      model: any Linen module that is not bound.
      rngs: keys by stream, as for `apply`. Parameters need no key.
      **kwargs: passed to the model. `method` is that of `apply`; `mutable` is not needed.

    Raises:
      TypeError: if model is not a Linen module, if it cannot be called, or if an argument is
        traced.
      ValueError, TypeError, flax.errors.InvalidRngError: as the model's own call.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout1D, summarize
      >>> model = nn.Sequential([nn.Dense(4), SpatialDropout1D(0.5, deterministic=False)])
      >>> summary = summarize(model, jnp.ones((2, 3, 5)), rngs={"dropout": jax.random.key(0)})
      >>> summary.sites[0].noise_shape, summary.sites[0].coin_flips
      ((2, 1, 4), 8)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an instance of flax.linen.Module: got {shown(model)}")
    if kwargs.get("method") is None:
        check_callable(model, "model", "a module with a __call__, or be given a method=")
    if model.scope is not None:
        raise ValueError(
            f"model must not be bound to variables: got a bound {type(model).__name__}; pass "
            "model.unbind()[0]"
        )
    kwargs.pop("mutable", None)
    if not isinstance(rngs, Mapping):  # Flax takes one key as the stream of parameters
        rngs = {} if rngs is None else {"params": check_key(rngs, "rngs")}
    rngs = {
        check_name(stream, "a stream of rngs"): check_key(key, f"rngs[{stream!r}]")
        for stream, key in rngs.items()
    }

    def forward(*args: Any, rngs: dict[str, Any], **kwargs: Any) -> None:
        keys = {"params": jax.random.key(0), **rngs}
        shapes = jax.eval_shape(lambda: model.init(keys, *args, **kwargs))
        model.apply(with_zeros(shapes), *args, rngs=rngs, mutable=True, **kwargs)

    with _intercept(_watch):
        return summarize_run(forward, *args, rngs=rngs, **kwargs)


_INTERCEPTORS = jax.make_user_context(())


@contextlib.contextmanager
def _intercept(interceptor: Callable[..., Any]) -> Iterator[None]:
    """`nn.intercept_methods`, with the interceptor as part of the keys of JAX's caches.

    A function that was jitted outside is traced again inside, and the other way round. Entered
    twice, it changes nothing.
    """
    entered = _INTERCEPTORS.value
    if interceptor in entered:
        yield
    else:
        with _INTERCEPTORS((*entered, interceptor)), nn.intercept_methods(interceptor):
            yield


_FLAX_S_OWN = inspect.unwrap(nn.Dropout.__call__)


def _watch(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    recorder, module = current_recorder(), context.module
    if recorder is None or module.scope is None:
        return call(*args, **kwargs)
    if is_trial_of_scan():
        with unrecorded():
            return call(*args, **kwargs)
    if type(module).__module__.startswith("flax.nnx.bridge"):
        where = "/".join(module.path) or "the model"
        recorder.remark(f"not seen, in NNX inside Linen: flax.nnx.Dropout in {where}")
    with recorder.at(module.path):
        if getattr(context.orig_method, "func", None) is _FLAX_S_OWN:
            return _run_flax_s_own(module, *args, **kwargs)
        return call(*args, **kwargs)


def _run_flax_s_own(
    module: nn.Dropout, inputs: Array, deterministic: bool | None = None, rng: Key = None
) -> jax.Array:
    call = call_of(module, deterministic, rng)
    # A copy without `deterministic`, which must be given only once.
    alone = nn.Dropout(module.rate, module.broadcast_dims, parent=None)

    def run(key: Key, x: Array) -> jax.Array:
        y: jax.Array = _FLAX_S_OWN(alone, x, call.deterministic, key)
        return y

    return run_layer_of_flax(call, inputs, _noise_shape(module, inputs), module.rate, run)


def _noise_shape(module: nn.Dropout, inputs: Array) -> Shape:
    return resolve_noise_shape(check_input(inputs).shape, None, module.broadcast_dims)


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
        entered = _intercept(_run_here)
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
    recipe = Recipe(_noise_shape(module, inputs))
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
