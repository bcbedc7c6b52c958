"""The modules of every case: what its function returns, from the same key."""

import jax
import numpy as np
import pytest
from jax.random import clone

from .catalogue import CASES, FACES

KEY = jax.random.key(23)

pytestmark = [
    pytest.mark.parametrize("face", FACES[1:]),
    pytest.mark.parametrize("case", CASES, ids=lambda case: case.id),
]


def test_a_module_is_its_function(case, face):
    x = jax.random.normal(jax.random.key(1), case.shape)
    expected = case.function(clone(KEY), x, 0.3, **case.options)
    np.testing.assert_array_equal(case.face(face)(clone(KEY), x, 0.3), expected)


def test_its_mask_given_is_its_mask_drawn(case, face):
    x = jax.random.normal(jax.random.key(1), case.shape)
    layer = case.module(face)(0.3, **case.options)
    if face == "linen":
        mask = layer.apply({}, x, False, clone(KEY), method="sample_mask")
        given = layer.apply({}, x, False, mask=mask)
    else:
        mask = layer.sample_mask(x, rngs=clone(KEY))
        given = layer(x, mask=mask)
    np.testing.assert_array_equal(mask, case.mask(clone(KEY), 0.3))
    expected = case.function(clone(KEY), x, 0.3, **case.options)
    np.testing.assert_array_equal(given, expected)
