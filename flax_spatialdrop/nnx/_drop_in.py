"""Our dropout in Flax's own layers."""

import functools
from typing import Any

from flax import nnx

from .._checks import shown
from .._docs import completed_by
from .._drop_in import DropInReport, reason_of_attention, reason_of_call
from .._ops.dropout import dropout
from ._attention import dot_product_attention
from ._base import Stochastic
from ._change import changed_class
from ._dropout import Dropout


@completed_by(dropout)
def drop_in(model: nnx.Module) -> DropInReport:
    """Makes this package run the dropout of Flax's own layers in a model, in place.

        y = x * m / (1 - rate),   m the mask that Flax draws

    The masks are those of Flax, unless the key is a `fast_key`, and so are the outputs in float32
    (of attention up to rounding, and without Flax's NaN at a rate of 1). They take less memory. The
    arguments are checked as by `nnx.Dropout` and `nnx.dot_product_attention`: integer inputs and a
    rate outside [0, 1] raise an error. These modules of the model are changed:

      - `flax.nnx.Dropout` becomes `Dropout` of this package. A class derived from Flax's that does
        not override `__call__` becomes a class derived from it and from `Dropout`.
      - `flax.nnx.MultiHeadAttention` and classes derived from it whose `attention_fn` is
        `flax.nnx.dot_product_attention` get the function of this package. Other functions stay,
        such as your own or a functools.partial of Flax's.

    Each layer keeps its arguments, its mode and its streams, and is the same object. But the
    structure of the model changes: call this when the model is built, outside nnx.jit, before it is
    split or cloned (as for an average of its parameters). Functions of Flax that are called without
    such a layer are not affected, nor are Linen layers inside (`flax.nnx.bridge.ToNNX`).

    To scale the rates of the model, call it inside `scale_rates`.

    Args:
      model: any NNX module; it is changed.

    Returns:
      A `DropInReport` of the layers that were changed, and of those that were left alone. A second
      call changes none.

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
      layer     run here
      layers/0  yes, flax.nnx.MultiHeadAttention
      layers/1  yes, flax.nnx.Dropout
      >>> model.train()
      >>> y = model(jnp.ones((2, 5, 4)))
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model must be an instance of nnx.Module: got {shown(model)}; for Linen, call the "
            "model in the context flax_spatialdrop.linen.drop_in()"
        )
    report = DropInReport()
    for path, module in [*nnx.iter_modules(model, graph=True)]:
        cls = type(module)
        if isinstance(module, nnx.Dropout) and not isinstance(module, Stochastic):
            if cls.__call__ is nnx.Dropout.__call__:
                # The object stays, with its attributes and its streams.
                module.__class__ = _run_here(cls)
                report.add_reached(path, cls)
            else:
                report.add_left(path, reason_of_call(cls))
        elif isinstance(module, nnx.MultiHeadAttention):
            if module.attention_fn is nnx.dot_product_attention:
                module.attention_fn = dot_product_attention
                report.add_reached(path, cls)
            elif reason := reason_of_attention(module.attention_fn):
                report.add_left(path, reason)
        elif isinstance(module, nnx.bridge.ToNNX):
            report.add_left(
                path, "Linen inside NNX: call it in the context flax_spatialdrop.linen.drop_in()"
            )
    return report


@functools.cache
def _run_here(cls: Any) -> Any:
    """Returns the class of a layer of class `cls` that this package runs.

    It is made once, so that equal layers have equal classes.
    """
    if cls is nnx.Dropout:
        return Dropout
    # `cls` comes first, so its other methods stay; its `__call__` is Flax's, after ours.
    return changed_class((cls, Dropout), _run_here)
