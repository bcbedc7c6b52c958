"""What drops in a Linen model: a forward pass, watched."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from .._checks import check_callable, check_input, check_key, check_name, check_rate, shown
from .._choices import Choices
from .._compat import is_trial_of_scan
from .._host import draws, is_active
from .._noise_shape import resolve_noise_shape
from .._recorder import current_recorder, recording, run_with_arrays, unrecorded, with_zeros
from .._summary import Summary
from .._typing import Array, Key
from ._call import find_key, is_deterministic, where
from ._intercept import intercept


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
            return _noted(module, *args, **kwargs)
        return call(*args, **kwargs)


def _name_of(module: nn.Dropout) -> str:
    return "flax.linen.Dropout" if type(module) is nn.Dropout else type(module).__name__


def _noted(
    module: nn.Dropout, inputs: Array, deterministic: bool | None = None, rng: Key = None
) -> jax.Array:
    rate, off = check_rate(module.rate), is_deterministic(module, deterministic)
    noise_shape = resolve_noise_shape(check_input(inputs).shape, None, module.broadcast_dims)
    key = find_key(module, rng) if draws(Choices(noise_shape), rate, off, None) else None
    # As an attribute it would be given twice.
    alone = nn.Dropout(module.rate, module.broadcast_dims, parent=None)

    def run(x: Array) -> jax.Array:
        return _FLAX_S_OWN(alone, x, off, key)

    recorder = current_recorder()
    if recorder is not None:
        recorder.note(
            where(module, rng)._replace(module=_name_of(module)),
            run,
            inputs,
            noise_shape,
            rate=rate,
            active=is_active(rate, off),
            key=key,
            mask=None,
        )
    return run(inputs)
