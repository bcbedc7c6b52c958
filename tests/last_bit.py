"""Compares results of this package to eager results of Flax, which some versions of JAX round."""

import jax
import numpy as np

DIVIDES = jax.__version_info__ < (0, 10, 1)
"""Whether eager JAX divides by a constant, where jitted JAX multiplies by the inverse."""


def assert_same_eagerly(ours, theirs, is_model=False):
    """Checks that two arrays are equal, up to the rounding of a division.

    If this JAX divides, the masks must be equal, and values of a layer may differ in their last
    bit. Values of a whole model may differ in more bits, since sums of its layers may cancel.
    """
    if not DIVIDES:
        np.testing.assert_array_equal(ours, theirs)
    elif is_model:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(ours == 0, theirs == 0)
        np.testing.assert_array_max_ulp(ours, theirs)
