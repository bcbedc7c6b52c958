"""Regularizers behind the layers of a Linen model that has none."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn

from .._insert import check_after, check_layer
from .._scaling import Reentrant
from ._base import Regularizer, Stochastic
from ._intercept import intercept
from ._recurrent import Bidirectional, RecurrentLayer
from ._spans import SpecAugment
from ._tokens import EmbeddingDropout, EmbeddingNoise, TokenDropout

_Path: TypeAlias = tuple[str, ...]
_Layer: TypeAlias = Regularizer | EmbeddingNoise | SpecAugment | nn.Dropout
_Classes: TypeAlias = type[nn.Module] | tuple[type[nn.Module], ...]


def insert(
    after: _Classes | Callable[[_Path, nn.Module], bool],
    layer: _Layer | Callable[[_Path], _Layer | None],
) -> contextlib.AbstractContextManager[None]:
    """Puts a regularizer behind layers of all models that are called inside.

        y = layer(module(x)),   for each module that `after` matches

    The model and its variables do not change: parameters that were made outside fit inside, and
    the other way round. The layer draws with a key of its stream at the matched module, as if the
    module itself called `make_rng`. So it draws anew for each module, each call and, with
    `split_rngs`, each step of nn.scan and each example of nn.vmap. If a matched class is itself
    lifted, as in nn.vmap(nn.Dense), the layer runs inside. Only `__call__` changes, not other
    methods, such as `attend` of `nn.Embed`. With `capture_intermediates`, the output of a matched
    module is there twice.

    Contexts may be nested, and `drop_in` and `summarize` work inside: behind one module, the layer
    of the innermost context runs first. Entering equal arguments twice has no further effect. Other
    threads do not change. A function that was jitted outside is traced again inside, and the other
    way round, but not one that was compiled ahead of time. To have few traces, give equal arguments
    each time: the same function objects and equal layers.

    Args:
      after: a class or a tuple of classes, which match their instances; or a function of a path and
        a module that returns whether the module matches. It is asked about each bound module that
        is called, the model itself and containers such as nn.Sequential included, but not about
        regularizers. The output of a matched module must be one array.
      layer: a `flax.linen.Dropout`, or a regularizer of this package that maps the output of a
        layer to an array of its shape, with its `deterministic` set. It is called without options
        such as `lengths`. Or a function that returns one for the path of a matched module, such as
        one whose rate grows with the depth; None leaves the output as it is.

    Returns:
      A context manager. It may be entered again, even inside itself, and decorates functions.

    Raises:
      TypeError: if an argument has the wrong type.
      ValueError: if the layer's `deterministic` is None.
      ValueError, TypeError, flax.errors.InvalidRngError: in calls inside, as the layer's own call.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import Dropout, insert
      >>> model, x = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(2)]), jnp.ones((4, 3))
      >>> variables = model.init(jax.random.key(0), x)
      >>> with insert(after=nn.Dense, layer=Dropout(0.1, deterministic=False)):
      ...     y = model.apply(variables, x, rngs={"dropout": jax.random.key(1)})

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    insertion = _Insertion(after, layer)
    return Reentrant(lambda: intercept(insertion))


def _fits(layer: Any) -> bool:
    return isinstance(layer, _Layer) and not isinstance(layer, TokenDropout | EmbeddingDropout)


def _is_regularizer(module: nn.Module) -> bool:
    is_recurrent = isinstance(module, RecurrentLayer | Bidirectional)
    return isinstance(module, Stochastic | nn.Dropout) and not is_recurrent


def _check_mode(layer: _Layer) -> None:
    if layer.deterministic is None:
        raise ValueError(
            f"an inserted {type(layer).__name__} needs to know whether to drop: got "
            "deterministic=None; give a bool to its constructor"
        )


class _Insertion:
    """The interceptor. Those with equal arguments are equal, as keys of JAX's caches."""

    def __init__(self, after: Any, layer: Any) -> None:
        self._matches = check_after(after, nn.Module)
        self._layer_for = check_layer(layer, "linen", _fits)
        if _fits(layer):
            _check_mode(layer)
        try:
            hash((after, layer))
        except TypeError:  # such as an array as rate
            self._identity: Any = id(self)
        else:
            self._identity = after, layer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Insertion) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __call__(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module, y = context.module, call(*args, **kwargs)
        if not _is_whole_call(context) or _is_regularizer(module):
            return y
        layer = self._layer_for(module.path) if self._matches(module.path, module) else None
        if layer is None:
            return y
        _check_mode(layer)
        # In the scope of the module, from which it takes keys. It has no variables.
        return layer.clone(parent=module.scope)(y)


def _is_whole_call(context: Any) -> bool:
    """Whether this is the call of a bound module, not that of a base by `super().__call__`."""
    module = context.module
    if module.scope is None:
        return False
    return inspect.unwrap(context.orig_method.func) is inspect.unwrap(type(module).__call__)
