"""How tests compare to what Flax computes eagerly: bit for bit, but where JAX rounds otherwise."""

import jax
import numpy as np

DIVIDES = jax.__version_info__ < (0, 10, 1)
"""Whether eager JAX divides by a number, where it multiplies by the inverse jitted, and later."""


def assert_same_eagerly(ours, theirs, is_model=False):
    """Every bit is the same. Where JAX divides: masks, and a layer's values but for the last bit.

    A model's values are a few bits apart then, where sums of its layers cancel.
    """
    if not DIVIDES:
        np.testing.assert_array_equal(ours, theirs)
    elif is_model:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(ours == 0, theirs == 0)
        np.testing.assert_array_max_ulp(ours, theirs)
