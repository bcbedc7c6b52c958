"""One line for a model that exists: Flax's own dropout layers become those of this package."""

from typing import Any

from flax import nnx

from ._dropout import Dropout


def drop_in(model: nnx.Module) -> tuple[tuple[Any, ...], ...]:
    """Turns every `flax.nnx.Dropout` of a model into a `Dropout` of this package, in place.

        y = x * m / (1 - rate),   m the mask that Flax draws

    Same masks, in float32 same outputs, less memory, and where each element has a draw of its own
    less time. Each layer keeps its arguments, its mode and its stream, wherever it has got to, and
    stays the object that it is: what shares it, refers to it or filters by Flax's class finds it
    as before. The arguments are checked as those of `nnx.Dropout` here (integer inputs and a rate
    outside [0, 1] are refused).

    Its class is another, and with it the structure of the model: call this when the model is
    built, outside nnx.jit, before it is split and before clones (such as an average of its
    parameters) are made of it.

    What is reached are the modules of the model whose class is `flax.nnx.Dropout` itself. Not
    reached is the dropout inside Flax's attention layers, which draws without a layer of its own,
    and classes derived from `flax.nnx.Dropout`.

    Args:
      model: any NNX module; changed.

    Returns:
      The paths of the layers that were swapped; none at the second call.

    Raises:
      TypeError: if model is not an NNX module.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import drop_in
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
      >>> drop_in(model)
      (('layers', 1),)
      >>> y = model(jnp.ones((2, 3)))

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"drop_in swaps the layers of an nnx.Module instance: got {model!r}")
    found = [(path, m) for path, m in nnx.iter_modules(model) if type(m) is nnx.Dropout]
    for _, layer in found:
        # The class and not the object is swapped: attributes and stream stay where they are.
        layer.__class__ = Dropout
        layer.noise_shape = None  # type: ignore[attr-defined]
    return tuple(path for path, _ in found)
