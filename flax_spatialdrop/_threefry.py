"""JAX's threefry-2x32 draw, unrolled: the same bits, in a form that fuses with what uses them.

`jax.random.bits` of a key is, element by element, a hash of the key and of the element's
position. JAX's own program for it on the CPU is a loop over memory; written out as plain
arithmetic it fuses with the select behind it, so that neither bits nor mask are written down.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_HALF = np.uint32(16)
_LOW_HALF = np.uint32(0xFFFF)


def is_unrollable(key: jax.Array, shape: tuple[int, ...]) -> bool:
    """Whether `random_bits` gives JAX's own bits for this key and shape."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        implementation = str(jax.random.key_impl(key))
    else:
        implementation = jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    return (
        implementation == "threefry2x32"
        and jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
        and all(isinstance(size, int) and size < 2**32 for size in shape)
    )


def random_bits(words: jax.Array, noise_shape: tuple[int, ...], like: jax.Array) -> jax.Array:
    """Returns `jax.random.bits(key, noise_shape)` spread over the shape of `like`.

    `words` are the two of the key's data. The hash is computed at each element of `like`, so a
    noise shape smaller than its shape is hashed many times over.
    """
    high, low = _positions(noise_shape, like)
    return _hash(words[0], words[1], high, low)


@jax.jit  # so that it is traced once for all layers
def _hash(key0, key1, x0, x1):
    """Threefry-2x32 in 20 rounds (Salmon et al., 2011), its two words folded as JAX does.

    In the words of lax, since each operator of jax.numpy costs a traced call of its own.
    """
    add, xor = lax.add, lax.bitwise_xor
    keys = (key0, key1, xor(xor(key0, key1), _PARITY))
    x0, x1 = add(x0, keys[0]), add(x1, keys[1])
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x0 = add(x0, x1)
            x1 = xor(x0, _rotate_left(x1, rotation))
        x0 = add(x0, keys[(block + 1) % 3])
        x1 = add(x1, add(keys[(block + 2) % 3], np.uint32(block + 1)))
    return xor(x0, x1)


def _rotate_left(x, by):
    up = lax.shift_left(x, np.uint32(by))
    return lax.bitwise_or(up, lax.shift_right_logical(x, np.uint32(32 - by)))


def _positions(noise_shape, like):
    """The place of each element's draw in the noise shape, row by row, as two 32-bit words."""
    wide = math.prod(noise_shape) > 2**32
    sharding = jax.typeof(like).sharding
    explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    high = np.uint32(0)
    low = jnp.zeros(like.shape, np.uint32, out_sharding=sharding if explicit else None)
    stride = 1
    for axis in reversed(range(like.ndim)):
        if noise_shape[axis] > 1:
            index = lax.broadcasted_iota(
                np.uint32, like.shape, axis, out_sharding=sharding if explicit else None
            )
            term = index * np.uint32(stride % 2**32)
            if wide:
                high = high + _high_product(index, stride)
                high = high + (low + term < low).astype(np.uint32)
            low = low + term
        stride *= noise_shape[axis]
    return high, low


def _high_product(index, stride):
    """The upper 32 bits of index * stride, by halves of 16 bits."""
    high, low = divmod(stride, 2**32)
    s1, s0 = (np.uint32(half) for half in divmod(low, 2**16))
    i1, i0 = index >> _HALF, index & _LOW_HALF
    middle = (i0 * s0 >> _HALF) + (i0 * s1 & _LOW_HALF) + (i1 * s0 & _LOW_HALF)
    carried = i1 * s1 + (i0 * s1 >> _HALF) + (i1 * s0 >> _HALF) + (middle >> _HALF)
    return carried + index * np.uint32(high % 2**32)
