"""What drops in a Linen model: a forward pass, watched."""

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
from .._host import regularize, run_layer_of_flax
from .._noise_shape import resolve_noise_shape
from .._summary import (
    Summary,
    Where,
    current_recorder,
    recording,
    run_with_arrays,
    unrecorded,
    with_zeros,
)
from .._typing import Array, Key, Shape
from ._attention import dot_product_attention
from ._base import call_of, intercept


def summarize(
    model: nn.Module,
    *args: Any,
    rngs: Mapping[str, jax.Array] | jax.Array | None = None,
    **kwargs: Any,
) -> Summary:
    """Lists every regularizer that a forward pass of a model runs, and what it does there.

        kept bytes = bytes of the residuals of jax.vjp(regularizer, x)

    The pass is `model.apply(variables, *args, rngs=rngs, **kwargs)`, with variables of zeros. It
    is compiled and run, but of what it computes only the keys are needed, and XLA leaves the rest
    out. Listed are the modules of this package and `flax.linen.Dropout`, and classes derived from
    them, and the dropout of weights in the attention functions of this package. Not listed are
    the dropout inside Flax's attention layers (but for those that `drop_in` hands to this
    package), other functions that are called without a module, and Flax's own layers in NNX modules
    inside the model (`flax.nnx.bridge.to_linen`), which a remark names.

    Args:
      model: any Linen module, not bound.
      *args: what the model is called with: arrays, jax.ShapeDtypeStruct in their place, anything.
      rngs: keys by stream, as for `apply`; the parameters need none. None: no keys.
      **kwargs: as args; of `apply` itself `method` may be among them, and `mutable`, which is
        not needed.

    Returns:
      A Summary: `print` it for the table; `sites` and `remarks` hold the same as values.

    Raises:
      TypeError: if model is not a Linen module or cannot be called, or anything is traced.
      ValueError, TypeError, flax.errors.InvalidRngError: as the model's own call.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout1D, summarize
      >>> model = nn.Sequential([nn.Dense(4), SpatialDropout1D(0.5, deterministic=False)])
      >>> summary = summarize(model, jnp.ones((2, 3, 5)), rngs={"dropout": jax.random.key(0)})
      >>> summary.sites[0].noise_shape, summary.sites[0].coin_flips
      ((2, 1, 4), 8)

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
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
    if not isinstance(rngs, Mapping):  # as Flax reads one key
        rngs = {} if rngs is None else {"params": check_key(rngs, "rngs")}
    rngs = {
        check_name(stream, "a stream of rngs"): check_key(key, f"rngs[{stream!r}]")
        for stream, key in rngs.items()
    }

    def forward(given: Any) -> None:
        args, kwargs, rngs = given
        keys = {"params": jax.random.key(0), **rngs}
        shapes = jax.eval_shape(lambda: model.init(keys, *args, **kwargs))
        model.apply(with_zeros(shapes), *args, rngs=rngs, mutable=True, **kwargs)

    with recording() as recorder, intercept(_watch):
        run_with_arrays(forward, (args, kwargs, rngs))
    return recorder.summary()


_FLAX_S_OWN = inspect.unwrap(nn.Dropout.__call__)


def _watch(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
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
    alone = nn.Dropout(module.rate, module.broadcast_dims, parent=None)  # with no `deterministic`

    def run(key: Key, x: Array) -> jax.Array:
        return _FLAX_S_OWN(alone, x, call.deterministic, key)

    return run_layer_of_flax(call, inputs, _noise_shape(module, inputs), module.rate, run)


def _noise_shape(module: nn.Dropout, inputs: Array) -> Shape:
    return resolve_noise_shape(check_input(inputs).shape, None, module.broadcast_dims)


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
    recipe = Recipe(_noise_shape(module, inputs))
    call = call_of(module, deterministic, rng)

    def where() -> Where:
        return call.where()._replace(module="flax.linen.Dropout, run here")

    return regularize(call._replace(where=where), inputs, recipe, module.rate)


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
