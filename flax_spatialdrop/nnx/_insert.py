"""Regularizers behind the layers of an NNX model that has none."""

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .._checks import listed, shown, unboxed
from ._base import Regularizer

_Path: TypeAlias = tuple[Any, ...]
_Layer: TypeAlias = Regularizer | nnx.Dropout
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
    nnx.jit, before the model is split or cloned. The model cannot be pickled then; save its state.

    Args:
      model: any NNX module; it is changed.
      after: a class or a tuple of classes, which match their instances; or a function of a path and
        a module that returns whether the module matches. It is asked about each module that can be
        called, the model itself and containers such as nnx.Sequential included, but not about
        regularizers. The output of a matched module must be one array.
      layer: a regularizer of this package or a `flax.nnx.Dropout`. Its copies have its mode, so a
        new layer drops even if the model is in evaluation. Or a function that returns a layer for
        the path of a matched module, such as one whose rate grows with the depth; None leaves the
        module as it is.

    Returns:
      The paths of the modules that have a layer now.

    Raises:
      TypeError: if an argument has the wrong type.
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
    found = _matched(model, after)
    layers = [_layer_for(path, layer) for path, _ in found]
    chosen = [(*place, each) for place, each in zip(found, layers, strict=True) if each is not None]
    for path, module, _ in chosen:
        if hasattr(module, _LAYER):
            raise ValueError(
                f"insert puts one layer behind a module, as its attribute {_LAYER!r}: got "
                f"{type(module).__name__} at {shown(path)}, which has that attribute already"
            )
    for _, module, each in chosen:
        setattr(module, _LAYER, _copied(each))
        _extend(module)
    if chosen and callable(model):
        _extend(model)
    return tuple(path for path, _, _ in chosen)


def _matched(model: nnx.Module, after: Any) -> list[tuple[_Path, nnx.Module]]:
    classes = after if isinstance(after, tuple) else (after,)
    is_class = all(isinstance(entry, type) for entry in classes)
    if not is_class and (isinstance(after, nnx.Module) or not callable(unboxed(after))):
        raise TypeError(
            "after must be a class, a tuple of classes, or a function of a path and a module: got "
            f"{shown(after)}"
        )
    asked = [
        (path, module)
        for path, module in nnx.iter_modules(model, graph=True)
        if callable(module) and not isinstance(module, _Layer)
    ]
    found = [
        (path, module)
        for path, module in asked
        if (isinstance(module, classes) if is_class else after(path, module))
    ]
    if not found:
        names = sorted({type(module).__name__ for _, module in asked})
        has = f"has {listed(names)}" if names else "has no modules that can be called"
        raise ValueError(
            f"after must match a module of the model: got {shown(after)}, and the model {has}"
        )
    return found


def _layer_for(path: _Path, layer: Any) -> _Layer | None:
    what = "a regularizer of flax_spatialdrop.nnx or a flax.nnx.Dropout"
    if isinstance(layer, _Layer):
        return layer
    if isinstance(layer, nnx.Module | type) or not callable(unboxed(layer)):
        raise TypeError(f"layer must be {what}, or a function of a path: got {shown(layer)}")
    chosen = layer(path)
    if not isinstance(chosen, _Layer | None):
        raise TypeError(
            f"layer must return {what}, or None: got {shown(chosen)} for the path {shown(path)}"
        )
    return chosen


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


def _extend(module: nnx.Module) -> None:
    """Makes the call of a module run the layer behind it, and take `rngs`."""
    if not isinstance(module, _Extended):
        # The object stays, with its attributes.
        module.__class__ = _extended(type(module))


@functools.cache  # models that were equal stay equal, for the caches of nnx.jit
def _extended(cls: type[nnx.Module]) -> Any:
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return types.new_class(cls.__name__, (_Extended, cls), exec_body=lambda ns: ns.update(names))


class _Extended(nnx.Module):
    """A base before the class of a module that `insert` changed."""

    def __call__(self, *args: Any, rngs: Any = None, **kwargs: Any) -> Any:
        run: Any = super().__call__
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
