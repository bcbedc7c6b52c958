"""The cells whose arithmetic is known: LSTM, GRU and the simple one."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from ._recurrent.step import Carry, Cell

cached = lru_cache(maxsize=64)
"""Equal functions give the same cell, so that JAX finds what it has compiled for it."""


@cached
def lstm(gate_fn: Callable[..., Any], activation_fn: Callable[..., Any]) -> Cell:
    """C' = f * c + i * g, h' = o * act(c'); the gates are i, f, g, o."""

    def update(z: jax.Array, carry: Carry, candidate: Callable[..., jax.Array]) -> Carry:
        memory, _ = carry
        i, f, g, o = jnp.split(z, 4, axis=-1)
        memory = gate_fn(f) * memory + gate_fn(i) * candidate(activation_fn(g))
        return memory, gate_fn(o) * activation_fn(memory)

    return Cell(gates=4, parts=2, remembers=True, join=jnp.add, update=update)


@cached
def gru(gate_fn: Callable[..., Any], activation_fn: Callable[..., Any]) -> Cell:
    """N = act(a_n + r * u_n), h' = (1 - z) * n + z * h; the gates are r, z, n."""

    def join(a: jax.Array, u: jax.Array) -> Any:
        hidden = a.shape[-1] // 3
        return (
            a[..., : 2 * hidden] + u[..., : 2 * hidden],
            a[..., 2 * hidden :],
            u[..., 2 * hidden :],
        )

    def update(z: Any, carry: Carry, candidate: Callable[..., jax.Array]) -> Carry:
        (state,) = carry
        gates, a, u = z
        reset, stay = jnp.split(gate_fn(gates), 2, axis=-1)
        new = candidate(activation_fn(a + reset * u))
        return (new + stay * (state - new),)

    return Cell(gates=3, parts=1, remembers=True, join=join, update=update)


@cached
def simple(activation_fn: Callable[..., Any]) -> Cell:
    """H' = act(a + u); no gates."""

    def update(z: jax.Array, carry: Carry, candidate: Callable[..., jax.Array]) -> Carry:
        return (activation_fn(z),)

    return Cell(gates=1, parts=1, remembers=False, join=jnp.add, update=update)
