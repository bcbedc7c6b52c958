"""Our dropout in Flax's own layers."""

from typing import Any

from flax import nnx

from .._checks import shown
from .._docs import completed_by
from .._ops.dropout import dropout
from ._attention import dot_product_attention
from ._dropout import Dropout


@completed_by(dropout)
def drop_in(model: nnx.Module) -> tuple[tuple[Any, ...], ...]:
    """Makes this package run the dropout of Flax's own layers in a model, in place.

        y = x * m / (1 - rate),   m the mask that Flax draws

    The masks are those of Flax, and so are the outputs in float32 (of attention up to rounding, and
    without Flax's NaN at a rate of 1). They take less memory. The arguments are checked as by
    `nnx.Dropout` and `nnx.dot_product_attention`: integer inputs and a rate outside [0, 1] raise an
    error. These modules of the model are changed:

      - `flax.nnx.Dropout`, but not classes derived from it, becomes `Dropout` of this package;
      - `flax.nnx.MultiHeadAttention` and classes derived from it whose `attention_fn` is
        `flax.nnx.dot_product_attention` get the function of this package. Other functions stay,
        such as your own or a functools.partial of Flax's.

    Each layer keeps its arguments, its mode and its stream, and is the same object. But the
    structure of the model changes: call this when the model is built, outside nnx.jit, before it is
    split or cloned (as for an average of its parameters). Functions of Flax that are called without
    such a layer are not affected.

    Args:
      model: any NNX module; it is changed.

    Returns:
      The paths of the layers that were changed; none in a second call.

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
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model must be an instance of nnx.Module: got {shown(model)}; for Linen, call the "
            "model in the context flax_spatialdrop.linen.drop_in()"
        )
    modules = nnx.iter_modules(model, graph=True)
    found = [(path, module) for path, module in modules if _is_reached(module)]
    for _, layer in found:
        if isinstance(layer, nnx.MultiHeadAttention):
            layer.attention_fn = dot_product_attention
        else:
            # The object stays, with its attributes and its stream.
            layer.__class__ = Dropout
    return tuple(path for path, _ in found)


def _is_reached(module: nnx.Module) -> bool:
    if isinstance(module, nnx.MultiHeadAttention):
        return module.attention_fn is nnx.dot_product_attention
    # Not isinstance, which would replace the code of derived classes.
    return type(module) is nnx.Dropout
