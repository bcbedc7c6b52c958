"""One step of a recurrent network: its weights, what is dropped in it, and its arithmetic."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from .._apply import kept_or_zero
from .._random.sharding import explicit_sharding

Carry: TypeAlias = tuple[jax.Array, ...]


class Cell(NamedTuple):
    """What tells one recurrent network from another.

    It has `gates`, and a carry of `parts`. `join(a, u)` is linear; `update(z, carry, candidate)`
    gives the new carry from what it returned, where `candidate` drops values of the new content
    before it is added to what is remembered, if it `remembers`.
    """

    gates: int
    parts: int
    remembers: bool
    join: Callable[[jax.Array, jax.Array], Any]
    update: Callable[[Any, Carry, Callable[[jax.Array], jax.Array]], Carry]


class Weights(NamedTuple):
    """The kernels [features, gates * hidden] of inputs and state, gate after gate; their biases."""

    inputs: jax.Array
    state: jax.Array
    input_bias: jax.Array | None
    state_bias: jax.Array | None


class Drop(NamedTuple):
    """A mask, [batch, features] or [gates, batch, features], and the scale of what it keeps."""

    mask: jax.Array
    scale: jax.Array


class Fixed(NamedTuple):
    """What is the same in every step: what is dropped of inputs, state and candidate.

    `zoneout` is the share of the new state in the mean that stands for zoneout in evaluation.
    """

    inputs: Drop | None = None
    state: Drop | None = None
    candidate: Drop | None = None
    zoneout: jax.Array | None = None


class Stepwise(NamedTuple):
    """What is given for every step: where the state is as before, [time, batch, ...], True there.

    `zoneout` has a mask for each part of the carry; `padding` is [time, batch, 1].
    """

    zoneout: tuple[jax.Array, ...] | None = None
    padding: jax.Array | None = None


def advance(cell, z, carry, fixed, each):
    """The carry after a step, element by element, from join(a, u) and the carry before it."""
    # In the precision of the carry, which is that of the parameters, as the host has it.
    z = jax.tree.map(lambda part: part.astype(carry[-1].dtype), z)
    new = cell.update(z, carry, partial(dropped, drop=fixed.candidate))
    return settled(carry, new, fixed, each)


def settled(carry, new, fixed, each):
    """The new carry, but for what zoneout and padding leave as it was."""
    if each.zoneout is not None:
        new = jax.tree.map(jnp.where, each.zoneout, carry, new)
    elif fixed.zoneout is not None:
        new = jax.tree.map(partial(mean_of_zoneout, fixed.zoneout), carry, new)
    if each.padding is not None:
        new = jax.tree.map(lambda s, n: jnp.where(_like(each.padding, n), s, n), carry, new)
    return new


def _like(padding, v):
    """[..., batch, 1] with as many axes of features as v."""
    return padding.reshape(*padding.shape[:-1], *(1,) * (v.ndim - padding.ndim + 1))


def mean_of_zoneout(keep, previous, new):
    """(1 - keep) * previous + keep * new, in at least float32; at keep 0 or 1 one of them alone."""
    dtype = new.dtype if jnp.finfo(new.dtype).bits >= 32 else jnp.float32
    first, last = previous.astype(dtype), new.astype(dtype)
    mixed = first + (last - first) * keep.astype(dtype)
    mixed = jnp.where(keep == 0, first, jnp.where(keep == 1, last, mixed))
    return mixed.astype(new.dtype)


def unpadded(v, each):
    """V with 0 for padding, [..., batch, features]."""
    if each.padding is None:
        return v
    return jnp.where(_like(each.padding, v), jnp.zeros((), v.dtype), v)


def project(v, drop, kernel):
    """drop(v) @ kernel, [batch, features] -> [batch, gates * hidden], or with steps in front."""
    if drop is None or drop.mask.ndim == 2:
        return _matmul(dropped(v, drop), kernel)
    kernels = jnp.split(kernel, drop.mask.shape[0], axis=-1)
    masks = (Drop(mask, drop.scale) for mask in drop.mask)
    products = [_matmul(dropped(v, m), k) for m, k in zip(masks, kernels, strict=True)]
    return jnp.concatenate(products, axis=-1)


def _matmul(v, kernel):
    v = v.astype(kernel.dtype)
    if v.ndim == 2:
        return v @ kernel
    # As a product of two matrices, since one that sums over two axes is slow on a CPU; with the
    # batch in front, so that one that is divided over devices stays so.
    v = v.swapaxes(0, 1)
    product = v.reshape(math.prod(v.shape[:-1]), v.shape[-1]) @ kernel
    return product.reshape(*v.shape[:-1], kernel.shape[-1]).swapaxes(0, 1)


def dropped(v, drop):
    """V * mask * scale, of which no NaN is left that was dropped."""
    if drop is None:
        return v
    return kept_or_zero(drop.mask, v, drop.scale)


def affine(z, bias):
    """Z + bias, along the last axis."""
    if bias is None:
        return z
    return z + jnp.broadcast_to(bias, z.shape, out_sharding=explicit_sharding(z))


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
