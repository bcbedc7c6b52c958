"""Masks do not depend on the backend: those of the default device are those of the CPU.

The last CPU device takes the place of an accelerator, unless conftest.py lets JAX choose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_spatialdrop as fs

from .catalogue import FIRST_OF_EACH

CPU = jax.devices("cpu")[0]
OTHER = jax.devices()[-1]
KEYS = {
    "threefry2x32": lambda seed: jax.random.key(seed),
    "fast_key": lambda seed: fs.fast_key(jax.random.key(seed)),
}


def on_both(f, *arguments):
    """Runs f(*arguments) on the CPU and on the other device."""
    with jax.debug_key_reuse(False):
        found = [jax.jit(f)(*jax.device_put(arguments, device)) for device in (CPU, OTHER)]
    assert [y.devices() for y in found] == [{CPU}, {OTHER}]
    return found


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_mask_of_a_million(kind, rate):
    key = KEYS[kind](2026)
    expected, mask = on_both(lambda key: fs.sample_mask(key, rate, (1009, 1, 1013)), key)
    np.testing.assert_array_equal(mask, expected)
    expected, block = on_both(
        lambda key: fs.mask_block(key, rate, (2**17, 2**17), (99_999, 77_777), (64, 1013)), key
    )
    np.testing.assert_array_equal(block, expected)


@pytest.mark.parametrize("case", FIRST_OF_EACH, ids=lambda case: case.id)
def test_every_regularizer(case):
    """A value that is dropped on one device alone would differ by more than the last bits."""
    x = jnp.linspace(1, 2, max(1, np.prod(case.shape, dtype=int))).reshape(case.shape)
    expected, y = on_both(lambda key, x: case.face()(key, x, 0.3), jax.random.key(7), x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y == 0, expected == 0)
