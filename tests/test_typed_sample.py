"""The typed sample of a user's code runs. mypy and pyright check its types in the gate."""

import jax
import pytest

from .typed_sample import functions, linen, nnx


@pytest.mark.parametrize("sample", [functions, linen, nnx], ids=lambda module: module.__name__)
def test_the_sample_runs(sample):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # JAX's defaults
        sample.run()
