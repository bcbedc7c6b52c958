"""What drops in a Linen model: a forward pass, watched."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from .._checks import check_input, check_rate, shown
from .._choices import Choices
from .._module_call import draws, is_active
from .._noise_shape import resolve_noise_shape
from .._recorder import current_recorder, recording, run_with_arrays, with_zeros
from .._summary import Summary
from .._typing import Array, Key
from ._call import find_key, is_deterministic, where
from ._intercept import intercept


def summarize(
    model: nn.Module, *args: Any, rngs: dict[str, jax.Array] | jax.Array, **kwargs: Any
) -> Summary:
    """Lists every regularizer that a forward pass of a model runs, and what it does there.

        kept bytes = bytes of the residuals of jax.vjp(regularizer, x)

    The pass is `model.apply(variables, *args, rngs=rngs, **kwargs)`, with variables of zeros. It
    is compiled and run, but of what it computes only the keys are needed, and XLA leaves the rest
    out. Listed are the modules of this package and `flax.linen.Dropout`, and classes derived from
    them; dropout inside Flax's attention layers, and functions called without a module, are not.

    Args:
      model: any Linen module, not bound.
      *args: what the model is called with: arrays, jax.ShapeDtypeStruct in their place, anything.
      rngs: keys by stream, as for `apply`; the parameters need none.
      **kwargs: as args; of `apply` itself `method` may be among them, and `mutable`, which is
        not needed.

    Returns:
      A Summary: `print` it for the table; `sites` and `remarks` hold the same as values.

    Raises:
      TypeError: if model is not a Linen module, or anything is traced.
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
        raise TypeError(f"summarize takes an instance of flax.linen.Module: got {shown(model)}")
    kwargs.pop("mutable", None)
    if not isinstance(rngs, dict):
        rngs = {"params": rngs}  # as Flax reads one key

    def forward(given: Any) -> None:
        args, kwargs, rngs = given
        keys = {"params": jax.random.key(0), **rngs}
        shapes = jax.eval_shape(lambda: model.init(keys, *args, **kwargs))
        model.apply(with_zeros(shapes), *args, rngs=rngs, mutable=True, **kwargs)

    with recording() as recorder, intercept(_note_flax_s_own):
        run_with_arrays(forward, (args, kwargs, rngs))
    return recorder.summary()


_FLAX_S_OWN = inspect.unwrap(nn.Dropout.__call__)


def _note_flax_s_own(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    if getattr(context.orig_method, "func", None) is _FLAX_S_OWN:
        return _noted(context.module, *args, **kwargs)
    return call(*args, **kwargs)


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
            where(module, rng),
            run,
            inputs,
            noise_shape,
            rate=rate,
            active=is_active(rate, off),
            key=key,
            mask=None,
        )
    return run(inputs)
