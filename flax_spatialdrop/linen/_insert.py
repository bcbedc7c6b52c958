"""Regularizers behind the layers of a Linen model that has none."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn

from .._checks import shown, unboxed
from .._scaling import Reentrant
from ._base import Regularizer
from ._intercept import intercept

_Path: TypeAlias = tuple[str, ...]
_Layer: TypeAlias = Regularizer | nn.Dropout
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
    of the innermost context runs first. The same arguments entered twice count once. Other threads
    do not change. A function that was jitted outside is traced again inside, and the other way
    round, but not one that was compiled ahead of time. To have few traces, give equal arguments
    each time: the same function objects and equal layers.

    Args:
      after: a class or a tuple of classes, which match their instances; or a function of a path and
        a module that returns whether the module matches. It is asked about each bound module that
        is called, the model itself and containers such as nn.Sequential included, but not about
        regularizers. The output of a matched module must be one array.
      layer: a regularizer of this package or a `flax.linen.Dropout`, with its `deterministic` set.
        Or a function that returns one for the path of a matched module, such as one whose rate
        grows with the depth; None leaves the output as it is.

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
    classes = after if isinstance(after, tuple) else (after,)
    is_class = all(isinstance(entry, type) for entry in classes)
    if not is_class and (isinstance(after, nn.Module) or not callable(unboxed(after))):
        raise TypeError(
            "after must be a class, a tuple of classes, or a function of a path and a module: got "
            f"{shown(after)}"
        )
    if isinstance(layer, _Layer):
        _check_mode(layer)
    elif isinstance(layer, nn.Module | type) or not callable(unboxed(layer)):
        raise TypeError(f"layer must be {_WHAT}, or a function of a path: got {shown(layer)}")
    insertion = _Insertion(after, layer)
    return Reentrant(lambda: intercept(insertion))


_WHAT = "a regularizer of flax_spatialdrop.linen or a flax.linen.Dropout"


def _check_mode(layer: _Layer) -> None:
    if layer.deterministic is None:
        raise ValueError(
            f"an inserted {type(layer).__name__} needs to know whether to drop: got "
            "deterministic=None; give a bool to its constructor"
        )


class _Insertion:
    """The interceptor. Those with equal arguments are equal, as keys of JAX's caches."""

    def __init__(self, after: Any, layer: Any) -> None:
        self._after, self._layer = after, layer
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
        if not _is_whole_call(context) or not self._matches(module):
            return y
        layer = self._layer_for(module.path)
        # In the scope of the module, from which it takes keys. It has no variables.
        return y if layer is None else layer.clone(parent=module.scope)(y)

    def _layer_for(self, path: _Path) -> _Layer | None:
        if isinstance(self._layer, _Layer):
            return self._layer
        layer = self._layer(path)
        if not isinstance(layer, _Layer | None):
            raise TypeError(
                f"layer must return {_WHAT}, or None: got {shown(layer)} for the path {shown(path)}"
            )
        if layer is not None:
            _check_mode(layer)
        return layer

    def _matches(self, module: nn.Module) -> bool:
        if isinstance(module, _Layer):
            return False
        if isinstance(self._after, type | tuple):
            return isinstance(module, self._after)
        return bool(self._after(module.path, module))


def _is_whole_call(context: Any) -> bool:
    """Whether this is the call of a bound module, not that of a base by `super().__call__`."""
    module = context.module
    if module.scope is None:
        return False
    return inspect.unwrap(context.orig_method.func) is inspect.unwrap(type(module).__call__)
