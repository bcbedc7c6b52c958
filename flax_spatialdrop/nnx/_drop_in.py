"""One line for a model that exists: the dropout of Flax's own layers becomes this package's."""

from typing import Any

from flax import nnx

from .._checks import shown
from ._attention import dot_product_attention
from ._dropout import Dropout


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
