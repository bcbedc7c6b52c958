"""Intercepting calls of Linen modules, in such a way that nothing stays behind."""

import contextlib
import contextvars
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax

_TRACED_UNDER = jax.make_user_context(())
_INTERCEPTORS: contextvars.ContextVar[tuple[Callable, ...]] = contextvars.ContextVar(
    "interceptors", default=()
)


@contextlib.contextmanager
def intercept(interceptor: Callable[..., Any], key: Hashable) -> Iterator[None]:
    """`nn.intercept_methods` that functions jitted outside cannot miss, nor those inside keep.

    JAX's caches hold what was traced under another `key` apart, so all is traced again. Of
    several, the one entered last is asked first and calls the others: Flax's own order would let
    one that replaces a call hide it from those inside.
    """
    outer = _INTERCEPTORS.get()
    token = _INTERCEPTORS.set((*outer, interceptor))
    try:
        first = nn.intercept_methods(_ask_all) if not outer else contextlib.nullcontext()
        with first, _TRACED_UNDER((*_TRACED_UNDER.value, key)):
            yield
    finally:
        _INTERCEPTORS.reset(token)


def _ask_all(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    for interceptor in _INTERCEPTORS.get():
        call = partial(_ask, interceptor, call, context)
    return call(*args, **kwargs)


def _ask(interceptor: Callable, call: Callable, context: Any, *args: Any, **kwargs: Any) -> Any:
    return interceptor(call, args, kwargs, context)
