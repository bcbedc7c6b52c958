"""Uses the installed package, as someone does who has no clone of the repository."""

import importlib.metadata
import importlib.resources
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import flax_spatialdrop as fsd

package = importlib.resources.files(fsd)
assert pathlib.Path(sys.prefix) in pathlib.Path(str(package)).parents, f"not installed: {package}"
assert package.joinpath("py.typed").is_file()
assert fsd.__version__ == importlib.metadata.version("flax-spatialdrop")

x, key = jnp.ones((2, 3, 4)), jax.random.key(0)
expected = fsd.spatial_dropout_1d(key, x, 0.5)
assert set(expected.ravel().tolist()) == {0.0, 2.0}

import flax_spatialdrop.linen  # noqa: E402
import flax_spatialdrop.nnx  # noqa: E402

model = nn.Sequential([nn.Dense(4), fsd.linen.SpatialDropout1D(0.5, deterministic=False)])
y, _ = model.init_with_output({"params": key, "dropout": key}, x)
assert y.shape == x.shape

layer = fsd.nnx.SpatialDropout1D(0.5, rngs=nnx.Rngs(dropout=1))
assert set(layer(x).ravel().tolist()) == {0.0, 2.0}
print(f"flax_spatialdrop {fsd.__version__} from {package}")
