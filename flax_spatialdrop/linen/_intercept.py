"""Intercepting calls of Linen modules, in such a way that nothing stays behind."""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import flax.linen as nn
import jax

_CONTEXT = jax.make_user_context(())


@contextlib.contextmanager
def intercept(interceptor: Callable[..., Any], key: Hashable) -> Iterator[None]:
    """`nn.intercept_methods` that functions jitted outside cannot miss, nor those inside keep.

    JAX's caches hold what was traced under another `key` apart, so all is traced again.
    """
    with _CONTEXT((*_CONTEXT.value, key)), nn.intercept_methods(interceptor):
        yield
