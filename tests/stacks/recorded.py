"""Losses of `experiments.stacks` at a small size, and the masks that they draw."""

import jax
import jax.numpy as jnp
import numpy as np

DEPTH = 3


def small(example):
    """Returns the arguments of a loss with fewer layers, rows and features."""
    params = jax.tree.map(lambda leaf: leaf[:DEPTH, :8, :8], example.params)
    return params, jax.random.key(5), example.batch[:2, :6, :8]


def masks_of(stack, drop, **options):
    """Returns the masks that a gradient draws, each once, in the forward and in the backward pass.

    With remat, a layer is recomputed, so a mask that changed would be one more.
    """
    seen = []

    def recording(*args):
        y = drop(*args)
        kept = next(leaf for leaf in jax.tree.leaves(y) if isinstance(leaf, jax.Array)) != 0
        jax.debug.callback(lambda mask: seen.append(np.asarray(mask)), kept)
        return y

    example = stack.example(recording, **options)
    jax.block_until_ready(jax.jit(jax.grad(example.loss))(*small(example)))
    jax.effects_barrier()
    return {mask.tobytes() for mask in seen}


def kept_bytes(stack, drop):
    """Returns how many bytes a gradient keeps for the backward pass."""
    example = stack.example(drop)
    params, key, batch = small(example)
    pullback = jax.eval_shape(lambda params: jax.vjp(example.loss, params, key, batch)[1], params)
    sizes = [np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(pullback)]
    return sum(sizes)


def value_and_gradient(stack, drop, **options):
    example = stack.example(drop, **options)
    return jax.jit(jax.value_and_grad(example.loss))(*small(example))


def assert_close(actual, expected):
    """Compares trees up to rounding, relative to the largest entry of each array."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * float(jnp.abs(b).max()))
