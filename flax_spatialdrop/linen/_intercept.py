"""Intercepting calls of Linen modules, in such a way that nothing stays behind."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax

_INTERCEPTORS = jax.make_user_context(())


@contextlib.contextmanager
def intercept(interceptor: Callable[..., Any]) -> Iterator[None]:
    """`nn.intercept_methods` that functions jitted outside cannot miss, nor those inside keep.

    JAX's caches hold what was traced under other interceptors apart, so all is traced again.
    Entered a second time, it changes nothing.
    """
    entered = _INTERCEPTORS.value
    if interceptor in entered:
        yield
    else:
        with _INTERCEPTORS((*entered, interceptor)), nn.intercept_methods(interceptor):
            yield
