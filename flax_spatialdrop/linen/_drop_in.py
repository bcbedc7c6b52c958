"""One line for a model that exists: Flax's own dropout layers, run by this package."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

from .._apply import check_input
from .._choices import Choices
from .._noise_shape import resolve_noise_shape
from .._typing import Array, Key
from ._call import regularize
from ._intercept import intercept


@contextlib.contextmanager
def drop_in() -> Iterator[None]:
    """Runs every `flax.linen.Dropout` that is called inside by the code of this package.

        y = x * m / (1 - rate),   m the mask that Flax draws

    Same masks, in float32 same outputs, less memory, and where each element has a draw of its own
    less time. The arguments are checked as those of `linen.Dropout` here (integer inputs and a
    rate outside [0, 1] are refused). Neither Flax nor the model is changed: outside the context,
    and in other threads, all is as it was. A function jitted outside is traced again inside, and
    the other way round; one that was compiled
    ahead of time (`lower`, `compile`) stays what it was compiled as. An interceptor of your own,
    entered inside, does not see the calls that are run here.

    What is reached are calls of modules whose class is `flax.linen.Dropout` itself, wherever they
    are: in setup, compact or Sequential, under nn.scan, nn.remat, nn.vmap, nn.jit. Not reached is
    the dropout inside Flax's attention layers, which draws without a layer of its own, and
    classes derived from `flax.linen.Dropout`.

    Returns:
      A context manager.

    Raises:
      ValueError, TypeError: from calls inside, as `linen.Dropout` raises them.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import drop_in
      >>> model = nn.Sequential([nn.Dense(4), nn.Dropout(0.5, deterministic=False)])
      >>> rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
      >>> with drop_in():
      ...     y, variables = model.init_with_output(rngs, jnp.ones((2, 3)))

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    with intercept(_run_here):
        yield


def _run_here(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    # Not isinstance: what a derived class adds would be lost.
    if type(context.module) is nn.Dropout and context.method_name == "__call__":
        return _dropout(context.module, *args, **kwargs)
    return call(*args, **kwargs)


def _dropout(
    module: nn.Dropout, inputs: Array, deterministic: bool | None = None, rng: Key = None
) -> jax.Array:
    return regularize(
        module,
        inputs,
        Choices(resolve_noise_shape(check_input(inputs).shape, None, module.broadcast_dims)),
        rate=module.rate,
        deterministic=deterministic,
        rng=rng,
        mask=None,
    )
