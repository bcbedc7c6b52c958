"""One step of a recurrent network: its weights, its masks and its equations."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from .._apply import kept_or_zero
from .._random.sharding import explicit_sharding
from .spec import CellSpec

Carry: TypeAlias = tuple[jax.Array, ...]

_Tree = TypeVar("_Tree")


class Equations(NamedTuple):
    """The equations of a recurrent network.

    Attributes:
      gates: the number of gates.
      parts: the number of parts of the carry.
      has_candidate: whether a step adds new content, the candidate, to the carry.
      join: join(a, u) combines the projections of the inputs and of the state; it is linear.
      update: update(z, carry, candidate) returns the new carry, where z = join(a, u). The function
        `candidate` drops values; update applies it to the new content.
    """

    gates: int
    parts: int
    has_candidate: bool
    join: Callable[[jax.Array, jax.Array], Any]
    update: Callable[[Any, Carry, Callable[[jax.Array], jax.Array]], Carry]

    def cell_of(self, features: int) -> CellSpec:
        """The cell with a hidden state of this size."""
        return CellSpec(self.gates, self.has_candidate, ((features,),) * self.parts)


class Weights(NamedTuple):
    """The kernels, [features, gates * hidden], and the biases. The gates are concatenated."""

    inputs: jax.Array
    state: jax.Array
    input_bias: jax.Array | None
    state_bias: jax.Array | None


class Drop(NamedTuple):
    """A mask, [batch, features] or [gates, batch, features], and the scale of kept values."""

    mask: jax.Array
    scale: jax.Array


class Fixed(NamedTuple):
    """The masks that are the same in every step.

    In evaluation, zoneout is replaced by the mean; `zoneout` is the factor of the new state in it.
    """

    inputs: Drop | None = None
    state: Drop | None = None
    candidate: Drop | None = None
    zoneout: jax.Array | None = None


class Stepwise(NamedTuple):
    """The masks that differ from step to step, True where the carry does not change.

    `zoneout` holds a mask [time, batch, ...] for each part of the carry. `padding` is
    [time, batch, 1]. The masks of one step, or of some steps, are called `each`.
    """

    zoneout: tuple[jax.Array, ...] | None = None
    padding: jax.Array | None = None


def advance(equations: Equations, z: Any, carry: Carry, fixed: Fixed, each: Stepwise) -> Carry:
    """Returns the carry after a step, from z = join(a, u) and the carry before the step."""
    # As in Flax, a step is computed in the dtype of the carry, which is the dtype of the
    # parameters.
    z = jax.tree.map(lambda part: part.astype(carry[-1].dtype), z)
    new = equations.update(z, carry, partial(dropped, drop=fixed.candidate))
    return settled(carry, new, fixed, each)


def settled(carry: _Tree, new: _Tree, fixed: Fixed, each: Stepwise) -> _Tree:
    """Returns the new carry, with the old values where zoneout or padding keeps them."""
    if each.zoneout is not None:
        new = jax.tree.map(jnp.where, each.zoneout, carry, new)
    elif fixed.zoneout is not None:
        new = jax.tree.map(partial(mean_of_zoneout, fixed.zoneout), carry, new)
    if (padding := each.padding) is not None:
        new = jax.tree.map(lambda s, n: jnp.where(_aligned(padding, n), s, n), carry, new)
    return new


def _aligned(padding: jax.Array, v: jax.Array) -> jax.Array:
    """Reshapes padding [..., batch, 1] to the number of axes of v."""
    return padding.reshape(*padding.shape[:-1], *(1,) * (v.ndim - padding.ndim + 1))


def mean_of_zoneout(keep: jax.Array, previous: jax.Array, new: jax.Array) -> jax.Array:
    """Returns (1 - keep) * previous + keep * new, in at least float32; exact for keep 0 and 1."""
    dtype = new.dtype if jnp.finfo(new.dtype).bits >= 32 else jnp.float32
    first, last = previous.astype(dtype), new.astype(dtype)
    mixed = first + (last - first) * keep.astype(dtype)
    mixed = jnp.where(keep == 0, first, jnp.where(keep == 1, last, mixed))
    return mixed.astype(new.dtype)


def unpadded(v: jax.Array, each: Stepwise) -> jax.Array:
    """Sets the padding of v, [..., batch, features], to 0."""
    if each.padding is None:
        return v
    return jnp.where(_aligned(each.padding, v), jnp.zeros((), v.dtype), v)


def project(v: jax.Array, drop: Drop | None, kernel: jax.Array) -> jax.Array:
    """Returns drop(v) @ kernel, [batch, gates * hidden]. v may have time before the batch."""
    if drop is None or drop.mask.ndim == 2:
        return _matmul(dropped(v, drop), kernel)
    kernels = jnp.split(kernel, drop.mask.shape[0], axis=-1)
    masks = (Drop(mask, drop.scale) for mask in drop.mask)
    products = [_matmul(dropped(v, m), k) for m, k in zip(masks, kernels, strict=True)]
    return jnp.concatenate(products, axis=-1)


def _matmul(v: jax.Array, kernel: jax.Array) -> jax.Array:
    v = v.astype(kernel.dtype)
    if v.ndim == 2:
        return v @ kernel
    # The axes of time and batch are merged, since on a CPU the derivative with respect to the
    # kernel is slow if it sums over two axes. The batch goes first, so that the merged axis is
    # sharded as the batch is.
    v = v.swapaxes(0, 1)
    product = v.reshape(math.prod(v.shape[:-1]), v.shape[-1]) @ kernel
    return product.reshape(*v.shape[:-1], kernel.shape[-1]).swapaxes(0, 1)


def dropped(v: jax.Array, drop: Drop | None) -> jax.Array:
    """Applies a mask and its scale to v. Dropped values are 0, even if they were NaN."""
    if drop is None:
        return v
    return kept_or_zero(drop.mask, v, drop.scale)


def affine(z: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Adds the bias, if there is one, along the last axis of z."""
    if bias is None:
        return z
    return z + jnp.broadcast_to(bias, z.shape, out_sharding=explicit_sharding(z))


cached = lru_cache(maxsize=64)
"""Equal arguments return the same equations, so that JAX finds compiled programs in its caches."""


# The docstrings of the functions below are used in those of the layers `LSTM`, `GRU` and
# `SimpleRNN`, which have the arguments that they explain.


@cached
def lstm(gate_fn: Callable[..., Any], activation_fn: Callable[..., Any]) -> Equations:
    """Long short-term memory over a sequence, with dropout of inputs and state.

        [i, f, g, o] = W_x drop(x_t) + W_h drop(h_{t-1}) + b
        c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g),   h_t = sigmoid(o) tanh(c_t)

    Each sequence has one mask for all its steps, and the carry is never scaled. With
    `variant="no_memory_loss"`, tanh(g) is dropped instead of the state. With "zoneout", random
    values of c and h keep their values of the step before, at the rate `recurrent_dropout`. In the
    padding the outputs are 0; the layers of Flax compute outputs there.

    Args:
      variant: "variational" (default), "no_memory_loss" or "zoneout".
      per_gate: whether each of the four gates has its own masks, for the inputs and for a
        "variational" state, as in Keras with a recurrent_dropout (default False).

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    def update(z: jax.Array, carry: Carry, candidate: Callable[..., jax.Array]) -> Carry:
        memory, _ = carry
        i, f, g, o = jnp.split(z, 4, axis=-1)
        memory = gate_fn(f) * memory + gate_fn(i) * candidate(activation_fn(g))
        return memory, gate_fn(o) * activation_fn(memory)

    return Equations(gates=4, parts=2, has_candidate=True, join=jnp.add, update=update)


@cached
def gru(gate_fn: Callable[..., Any], activation_fn: Callable[..., Any]) -> Equations:
    """Gated recurrent units over a sequence, with dropout of inputs and state.

        r = sigmoid(W_xr drop(x_t) + W_hr drop(h_{t-1}) + b_r),   z the same with its own weights
        n = tanh(W_xn drop(x_t) + b_n + r (W_hn drop(h_{t-1}) + b_hn))
        h_t = (1 - z) n + z h_{t-1}

    Each sequence has one mask for all its steps, and the carry is never scaled. With
    `variant="no_memory_loss"`, n is dropped instead of the state. With "zoneout", random values of
    h keep their values of the step before, at the rate `recurrent_dropout`. In the padding the
    outputs are 0; the layers of Flax compute outputs there.

    Args:
      variant: "variational" (default), "no_memory_loss" or "zoneout".
      per_gate: whether each of the three gates has its own masks, for the inputs and for a
        "variational" state, as in Keras with a recurrent_dropout (default False).

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

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

    return Equations(gates=3, parts=1, has_candidate=True, join=join, update=update)


@cached
def simple(activation_fn: Callable[..., Any]) -> Equations:
    """A simple recurrent network over a sequence, with dropout of inputs and state.

        h_t = tanh(W_x drop(x_t) + b + W_h drop(h_{t-1}))

    Each sequence has one mask for all its steps. With `variant="zoneout"`, random values of h keep
    their values of the step before, at the rate `recurrent_dropout`. In the padding the outputs are
    0; the layers of Flax compute outputs there.

    Args:
      variant: "variational" (default) or "zoneout".
      per_gate: must be False, since there are no gates.

    Reference: Gal & Ghahramani, A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks, 2016, https://arxiv.org/abs/1512.05287
    """

    def update(z: jax.Array, carry: Carry, candidate: Callable[..., jax.Array]) -> Carry:
        return (activation_fn(z),)

    return Equations(gates=1, parts=1, has_candidate=False, join=jnp.add, update=update)
