"""A summary of a Linen model's dropout."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from .._checks import check_callable, check_key, check_name, shown
from .._compat import is_trial_of_scan
from .._docs import completed_by
from .._host import run_layer_of_flax
from .._summary import Summary, current_recorder, summarize_run, unrecorded, with_zeros
from .._typing import Array, Key
from ._base import call_of
from ._intercept import CALL_OF_FLAX, intercept, noise_shape_of


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

    with intercept(_watch):
        return summarize_run(forward, *args, rngs=rngs, **kwargs)


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
        if getattr(context.orig_method, "func", None) is CALL_OF_FLAX:
            return _run_flax_s_own(module, *args, **kwargs)
        return call(*args, **kwargs)


def _run_flax_s_own(
    module: nn.Dropout, inputs: Array, deterministic: bool | None = None, rng: Key = None
) -> jax.Array:
    call = call_of(module, deterministic, rng)
    # A copy without `deterministic`, which must be given only once.
    alone = nn.Dropout(module.rate, module.broadcast_dims, parent=None)

    def run(key: Key, x: Array) -> jax.Array:
        y: jax.Array = CALL_OF_FLAX(alone, x, call.deterministic, key)
        return y

    return run_layer_of_flax(call, inputs, noise_shape_of(module, inputs), module.rate, run)
