"""What drops in an NNX model: a forward pass of a copy, watched."""

import functools
import types
from typing import Any

import jax
from flax import nnx

from .._checks import check_callable, check_input, shown
from .._host import run_layer_of_flax
from .._noise_shape import resolve_noise_shape
from .._summary import Summary, current_recorder, recording, run_with_arrays, with_zeros
from .._typing import Array, Key
from ._attention import dot_product_attention
from ._base import PATH, Stochastic, call_of
from ._dropout import Dropout


def summarize(model: nnx.Module, *args: Any, **kwargs: Any) -> Summary:
    """Lists every regularizer that a forward pass of a model runs, and what it does there.

        kept bytes = bytes of the residuals of jax.vjp(regularizer, x)

    The pass is that of `model(*args, **kwargs)`, by a copy: streams and statistics stay as they
    are. It is compiled and run, but of what it computes only the keys are needed, and XLA leaves
    the rest out. Listed are the modules of this package and the `flax.nnx.Dropout` layers of the
    model, classes derived from them, and the dropout of weights in the attention functions of
    this package. Not listed are the dropout inside Flax's attention layers (but for those that
    `drop_in` hands to this package), other functions that are called without a module, and Flax's
    own layers in Linen modules inside the model (`flax.nnx.bridge.ToNNX`), which a remark names.

    Args:
      model: any NNX module.
      *args: what the model is called with: arrays, jax.ShapeDtypeStruct in their place, nnx.Rngs,
        anything.
      **kwargs: as args.

    Returns:
      A Summary: `print` it for the table; `sites` and `remarks` hold the same as values.

    Raises:
      TypeError: if model is not an NNX module or cannot be called, or anything is traced.
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

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be an instance of nnx.Module: got {shown(model)}")
    check_callable(model, "model", "a module with a __call__")
    graph, state = nnx.split((model, args, kwargs))

    def forward(state: Any) -> None:
        copy, args, kwargs = nnx.merge(graph, state)
        for path, module in nnx.iter_modules(copy):
            if not isinstance(module, Stochastic):
                module.__class__ = _watched(type(module))
            if isinstance(module, Stochastic | _FlaxDropout | _FlaxAttention):
                setattr(module, PATH, path)
            if isinstance(module, nnx.bridge.ToNNX):
                where = "/".join(map(str, path)) or "the model"
                recorder.remark(f"not seen, in Linen inside NNX: flax.linen.Dropout in {where}")
        args, kwargs = with_zeros((args, kwargs))
        copy(*args, **kwargs)

    with recording() as recorder:
        run_with_arrays(forward, state)
    return recorder.summary()


class _FlaxDropout(nnx.Dropout):
    """Flax's own layer, listed in a summary."""

    def __call__(self, inputs, *, deterministic=None, rngs=None):
        call = call_of(self, deterministic, rngs)
        noise_shape = resolve_noise_shape(check_input(inputs).shape, None, self.broadcast_dims)

        def run(key: Key, x: Array) -> jax.Array:
            return nnx.Dropout.__call__(self, x, deterministic=call.deterministic, rngs=key)

        return run_layer_of_flax(call, inputs, noise_shape, self.rate, run)


_FlaxDropout.__name__ = "flax.nnx.Dropout"  # as it is listed


class _FlaxAttention(nnx.MultiHeadAttention):
    """Flax's own layer, where an attention function of this package may be called."""

    def __call__(self, *args, **kwargs):
        recorder = current_recorder()
        if recorder is None:
            return super().__call__(*args, **kwargs)
        with recorder.at(getattr(self, PATH)):
            return super().__call__(*args, **kwargs)


@functools.cache
def _watched(cls: Any) -> Any:
    """A class that notes its calls: the watched layer stands between a derived class and Flax's."""
    for theirs, watched in ((nnx.Dropout, _FlaxDropout), (nnx.MultiHeadAttention, _FlaxAttention)):
        if cls is theirs:
            return watched
        if issubclass(cls, theirs):
            return types.new_class(cls.__name__, (cls, watched))
    return cls


def drop_in(model: nnx.Module) -> tuple[tuple[Any, ...], ...]:
    """Hands the dropout of Flax's own layers in a model to this package, in place.

        y = x * m / (1 - rate),   m the mask that Flax draws

    Same masks, in float32 same outputs (of attention up to rounding, and without Flax's NaN at a
    rate of 1), less memory, and where each element has a draw of its own less time. Each layer
    keeps its arguments, its mode and its stream, wherever it has got to, and stays the object that
    it is: what shares it, refers to it or filters by Flax's class finds it as before. The arguments
    are checked as those of `nnx.Dropout` and `nnx.dot_product_attention` here (integer inputs and a
    rate outside [0, 1] are refused).

    A layer's class or its `attention_fn` is another, and with it the structure of the model: call
    this when the model is built, outside nnx.jit, before it is split and before clones (such as an
    average of its parameters) are made of it.

    Reached are the modules of the model
      - whose class is `flax.nnx.Dropout` itself, which become `Dropout` of this package; not those
        of derived classes;
      - of `flax.nnx.MultiHeadAttention` and all classes derived from it whose `attention_fn` is
        `flax.nnx.dot_product_attention` itself, which becomes the one of `flax_spatialdrop.nnx`.
        One of your own, a functools.partial of Flax's too, is left alone.

    Not reached are functions of Flax that are called without such a layer.

    Args:
      model: any NNX module; changed.

    Returns:
      The paths of the layers that were changed; none at the second call.

    Raises:
      TypeError: if model is not an NNX module.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import drop_in
      >>> rngs = nnx.Rngs(0)
      >>> attention = nnx.MultiHeadAttention(2, 4, dropout_rate=0.1, decode=False, rngs=rngs)
      >>> model = nnx.Sequential(attention, nnx.Dropout(0.5, rngs=rngs))
      >>> drop_in(model)
      (('layers', 0), ('layers', 1))
      >>> model.train()
      >>> y = model(jnp.ones((2, 5, 4)))

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be an instance of nnx.Module: got {shown(model)}")
    found = [(path, module) for path, module in nnx.iter_modules(model) if _is_reached(module)]
    for _, layer in found:
        if isinstance(layer, nnx.MultiHeadAttention):
            layer.attention_fn = dot_product_attention
        else:
            # The class and not the object is swapped: attributes and stream stay where they are.
            layer.__class__ = Dropout
    return tuple(path for path, _ in found)


def _is_reached(module: nnx.Module) -> bool:
    if isinstance(module, nnx.MultiHeadAttention):
        return module.attention_fn is nnx.dot_product_attention
    # Not isinstance: what a derived class adds would be lost.
    return type(module) is nnx.Dropout
