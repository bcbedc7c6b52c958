"""A summary of an NNX model's dropout."""

import functools
import types
from typing import Any

import jax
from flax import nnx

from .._checks import check_callable, check_input, shown
from .._docs import completed_by
from .._host import run_layer_of_flax
from .._noise_shape import resolve_noise_shape
from .._summary import Summary, current_recorder, summarize_run, with_zeros
from .._typing import Array, Key
from ._base import PATH, Stochastic, call_of


@completed_by(summarize_run)
def summarize(model: nnx.Module, *args: Any, **kwargs: Any) -> Summary:
    """The pass is `model(*args, **kwargs)` of a copy, so streams and statistics do not change.

    A remark names Linen modules inside the model (`flax.nnx.bridge.ToNNX`), since Flax's own layers
    in them are not listed.

    Args:
      model: any NNX module.

    Raises:
      TypeError: if model is not an NNX module, if it cannot be called, or if an argument is traced.
      ValueError, TypeError: as the model's own call.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import SpatialDropout1D, summarize
      >>> rngs = nnx.Rngs(params=0, dropout=1)
      >>> model = nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), SpatialDropout1D(0.5, rngs=rngs))
      >>> summary = summarize(model, jnp.ones((2, 3, 5)))
      >>> summary.sites[0].noise_shape, summary.sites[0].coin_flips
      ((2, 1, 4), 8)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be an instance of nnx.Module: got {shown(model)}")
    check_callable(model, "model", "a module with a __call__")
    graph, state = nnx.split((model, args, kwargs), graph=True)

    def forward(state: Any) -> None:
        copy, args, kwargs = nnx.merge(graph, state)
        recorder = current_recorder()
        for path, module in nnx.iter_modules(copy, graph=True):
            if not isinstance(module, Stochastic):
                module.__class__ = _watched(type(module))
            if isinstance(module, Stochastic | _FlaxDropout | _FlaxAttention):
                setattr(module, PATH, path)
            if isinstance(module, nnx.bridge.ToNNX) and recorder is not None:
                where = "/".join(map(str, path)) or "the model"
                recorder.remark(f"not seen, in Linen inside NNX: flax.linen.Dropout in {where}")
        args, kwargs = with_zeros((args, kwargs))
        copy(*args, **kwargs)

    return summarize_run(forward, state)


class _FlaxDropout(nnx.Dropout):
    """Flax's own layer, listed in a summary."""

    def __call__(
        self, inputs: Array, *, deterministic: bool | None = None, rngs: Any = None
    ) -> jax.Array:
        call = call_of(self, deterministic, rngs)
        noise_shape = resolve_noise_shape(check_input(inputs).shape, None, self.broadcast_dims)

        def run(key: Key, x: Array) -> jax.Array:
            return nnx.Dropout.__call__(self, x, deterministic=call.deterministic, rngs=key)

        return run_layer_of_flax(call, inputs, noise_shape, self.rate, run)


_FlaxDropout.__name__ = "flax.nnx.Dropout"  # as it is listed


class _FlaxAttention(nnx.MultiHeadAttention):
    """Flax's own layer, which may call an attention function of this package."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        recorder = current_recorder()
        if recorder is None:
            return super().__call__(*args, **kwargs)
        with recorder.at(getattr(self, PATH)):
            return super().__call__(*args, **kwargs)


@functools.cache
def _watched(cls: Any) -> Any:
    """Returns a class that notes its calls; a derived class gets ours as a base before Flax's."""
    for theirs, watched in ((nnx.Dropout, _FlaxDropout), (nnx.MultiHeadAttention, _FlaxAttention)):
        if cls is theirs:
            return watched
        if issubclass(cls, theirs):
            return types.new_class(cls.__name__, (cls, watched))
    return cls
