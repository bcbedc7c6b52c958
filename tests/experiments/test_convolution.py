import flax.linen as nn
import jax
import numpy as np
import pytest

from experiments.convolution import conv_by_patches, convolve


@pytest.mark.parametrize(("size", "stride", "side"), [(3, 1, 5), (3, 2, 5), (3, 2, 4), (4, 4, 8)])
def test_patches_give_the_values_of_a_convolution(size, stride, side):
    x = jax.random.normal(jax.random.key(0), (2, side, side + 1, 3))
    by_xla = nn.Conv(4, (size, size), stride)
    ours = nn.Conv(4, (size, size), stride, conv_general_dilated=conv_by_patches)
    expected, variables = by_xla.init_with_output(jax.random.key(1), x)
    np.testing.assert_allclose(ours.apply(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize(("backend", "primitive"), [("cpu", "dot_general"), ("gpu", "conv")])
def test_cpus_alone_take_patches(monkeypatch, backend, primitive):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    model, x = nn.Conv(4, (3, 3), conv_general_dilated=convolve), np.ones((1, 5, 5, 3))
    jaxpr = str(jax.make_jaxpr(lambda x: model.init_with_output(jax.random.key(0), x)[0])(x))
    assert ("dot_general" in jaxpr, "conv_general_dilated" in jaxpr) == (
        primitive == "dot_general",
        primitive == "conv",
    )
