"""Regularizers behind the layers of an NNX model that has none."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .._checks import listed, shown
from .._insert import check_after, check_layer
from ._base import Regularizer, Stochastic
from ._change import changed_class
from ._recurrent import RecurrentLayer
from ._spans import SpecAugment
from ._tokens import EmbeddingDropout, EmbeddingNoise, TokenDropout

_Path: TypeAlias = tuple[Any, ...]
_Layer: TypeAlias = Regularizer | EmbeddingNoise | SpecAugment | nnx.Dropout
_Classes: TypeAlias = type[nnx.Module] | tuple[type[nnx.Module], ...]

_LAYER = "inserted"
"""The attribute of a module that holds the layer behind it."""

_RNGS: ContextVar[tuple[Any, Any]] = ContextVar("rngs", default=(None, None))
"""The `rngs` that were given to the call that runs, and what its layers draw from."""


def insert(
    model: nnx.Module,
    after: _Classes | Callable[[_Path, nnx.Module], bool],
    layer: _Layer | Callable[[_Path], _Layer | None],
) -> tuple[_Path, ...]:
    """Puts a regularizer behind layers of a model, in place.

        y = layer(module(x)),   for each module of the model that `after` matches

    The modules stay the same objects. Their parameters stay, and so do the paths of these, so
    optimizers and checkpoints of parameters fit as before. Each matched module gets an attribute
    `inserted` with a copy of the layer. So `model.train()`, `model.eval()` and `nnx.view` set its
    mode, and `summarize` and `drop_in` find it. A module that occurs twice in the model has one
    layer. Only `__call__` changes, not other methods, such as `attend` of `nnx.Embed`.

    The keys come from one of two places:

      - If `layer` holds a stream, each copy gets a stream of its own: the n-th path that is
        returned has the n-th fork of the layer's stream. The keys and counts of these streams are
        the only state that is added to the model.
      - If not, nothing is added to the model's state. Then `model(x, rngs=nnx.Rngs(dropout=key))`
        gives keys to all inserted layers that run during this call: each takes its own. The call of
        a matched module takes `rngs=` too. If the model's own call has an argument `rngs`, it gets
        the same value. As with any nnx.Rngs, Flax raises an error if a layer runs inside
        nnx.scan, nnx.remat or nnx.jit and `rngs` comes from outside: such layers need streams.

    `rngs=` at the call is used in place of streams. Other methods of the model do not take it, so
    layers that run in them need streams. The structure of the model changes: call this outside
    nnx.jit, before the model is split or cloned.

    Args:
      model: any NNX module; it is changed.
      after: a class or a tuple of classes, which match their instances; or a function of a path and
        a module that returns whether the module matches. It is asked about each module that can be
        called, the model itself and containers such as nnx.Sequential included, but not about
        regularizers. The output of a matched module must be one array.
      layer: a `flax.nnx.Dropout`, or a regularizer of this package that maps the output of a layer
        to an array of its shape. It is called without options such as `lengths`. Its copies have
        its mode, so a new layer drops even if the model is in evaluation. Or a function that
        returns a layer for the path of a matched module, such as one whose rate grows with the
        depth; None leaves the module as it is.

    Returns:
      The paths of the modules that have a layer now.

    Raises:
      TypeError: if an argument has the wrong type, or a matched class cannot be derived from.
      ValueError: if `after` matches nothing, or a matched module has a layer already.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import Dropout, insert
      >>> rngs = nnx.Rngs(0)
      >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 2, rngs=rngs))
      >>> insert(model, after=nnx.Linear, layer=Dropout(0.1))
      (('layers', 0), ('layers', 2))
      >>> y = model(jnp.ones((4, 3)), rngs=nnx.Rngs(dropout=jax.random.key(0)))

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model must be an instance of nnx.Module: got {shown(model)}; for Linen, call the "
            "model in the context flax_spatialdrop.linen.insert(...)"
        )
    matches = check_after(after, nnx.Module)
    layer_for = check_layer(layer, "nnx", _fits)
    found = _matched(model, after, matches)
    layers = [layer_for(path) for path, _ in found]
    chosen = [(*place, each) for place, each in zip(found, layers, strict=True) if each is not None]
    for path, module, _ in chosen:
        if hasattr(module, _LAYER):
            raise ValueError(
                f"insert puts one layer behind a module, as its attribute {_LAYER!r}: got "
                f"{type(module).__name__} at {shown(path)}, which has that attribute already"
            )
    changed = [module for _, module, _ in chosen]
    if chosen and callable(model):
        changed.append(model)
    # Whatever can raise an error comes before the first change.
    classes = [_extended(type(module)) for module in changed]
    copies = [_copied(each) for *_, each in chosen]
    for module, cls in zip(changed, classes, strict=True):
        module.__class__ = cls  # the object stays, with its attributes
    for (_, module, _), copy in zip(chosen, copies, strict=True):
        setattr(module, _LAYER, copy)
    return tuple(path for path, _, _ in chosen)


def _matched(
    model: nnx.Module, after: Any, matches: Callable[[_Path, nnx.Module], bool]
) -> list[tuple[_Path, nnx.Module]]:
    asked = [
        (path, module)
        for path, module in nnx.iter_modules(model, graph=True)
        if callable(module) and not _is_regularizer(module)
    ]
    found = [(path, module) for path, module in asked if matches(path, module)]
    if not found:
        names = sorted({type(module).__name__ for _, module in asked})
        has = f"has {listed(names)}" if names else "has no modules that can be called"
        raise ValueError(
            f"after must match a module of the model: got {shown(after)}, and the model {has}"
        )
    return found


def _fits(layer: Any) -> bool:
    return isinstance(layer, _Layer) and not isinstance(layer, TokenDropout | EmbeddingDropout)


def _is_regularizer(module: nnx.Module) -> bool:
    is_recurrent = isinstance(module, RecurrentLayer)
    return isinstance(module, Stochastic | nnx.Dropout) and not is_recurrent


def _copied(layer: _Layer) -> _Layer:
    """Returns a copy with a stream forked from the layer's, if it has one."""
    copy: Any = nnx.clone(layer)
    if copy.rngs is not None:
        copy.rngs = _fork(layer.rngs)  # type: ignore[union-attr]
    return copy  # type: ignore[no-any-return]


def _fork(stream: Any) -> Any:
    fork: Callable[[Any], Any] = lambda stream: stream.fork()  # noqa: E731
    if isinstance(stream, nnx.RngStream):
        for _ in stream.key.shape:  # a stream for each layer of a stack
            fork = nnx.vmap(fork)
    return fork(stream)


@functools.cache  # models that were equal stay equal, for the caches of nnx.jit
def _extended(cls: Any) -> Any:
    """Returns the class of a module of class `cls` whose call runs the layer behind it."""
    return cls if issubclass(cls, _Extended) else changed_class((cls,), _extended, (_Extended,))


class _Extended:
    """A mixin for the class of a module that `insert` changed. Its call takes `rngs` too."""

    def __call__(self, *args: Any, rngs: Any = None, **kwargs: Any) -> Any:
        run: Any = super().__call__  # type: ignore[misc]
        if rngs is not None and "rngs" in inspect.signature(run).parameters:
            kwargs["rngs"] = rngs
        layer: Any = getattr(self, _LAYER, None)
        with _drawing_from(rngs):
            y = run(*args, **kwargs)
            return y if layer is None else layer(y, rngs=_RNGS.get()[1])


@contextlib.contextmanager
def _drawing_from(given: Any) -> Iterator[None]:
    """Gives `rngs` of a call to the inserted layers that run inside; None changes nothing."""
    if given is None or given is _RNGS.get()[0]:  # containers pass it on
        yield
        return
    is_key = isinstance(given, jax.Array | np.ndarray)
    # From nnx.Rngs, each layer takes a key of its own.
    token = _RNGS.set((given, nnx.Rngs(jnp.asarray(given)) if is_key else given))
    try:
        yield
    finally:
        _RNGS.reset(token)
