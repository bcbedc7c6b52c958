import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import libraries
from experiments.benchmarks.libraries import CORE, ELEMENT_WISE, LIBRARIES, OURS_FAST, RATE, SPATIAL

X = jnp.ones((4, 5, 6, 50))


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("kind", [ELEMENT_WISE, SPATIAL], ids=lambda kind: kind.name)
@pytest.mark.parametrize("rank", [3, 4])
def test_every_library_drops_the_same_kind_of_mask(name, kind, rank):
    if name in libraries.missing():
        pytest.skip(f"{name} is not installed")
    layer = libraries.layers(kind, rank, (name,)).get(name)
    if layer is None:
        assert name in ("Equinox", OURS_FAST)
        assert kind == SPATIAL
        return
    x = X if rank == 4 else X[:, :, 0]
    y = np.asarray(jax.jit(layer)(jax.random.key(0), x))
    assert y.shape == x.shape
    assert 0 < (y == 0).mean() < 3 * RATE
    rounding = 1e-5 if name == OURS_FAST else 1e-6  # fast keys round the rate to 16 bits
    np.testing.assert_allclose(y[y != 0], 1 / (1 - RATE), rtol=rounding)
    axes = tuple(range(1, rank - 1))
    is_shared = (y == y[:, :1, :1] if rank == 4 else y == y[:, :1]).all(axes).mean() == 1
    assert is_shared == kind.shared
    again = np.asarray(jax.jit(layer)(jax.random.key(1), x))
    assert (again != y).any()


def test_ours_draws_flax_s_mask():
    found = libraries.layers(SPATIAL, 4, CORE)
    ys = [f(jax.random.key(3), X) for f in found.values()]
    np.testing.assert_array_equal(ys[0], ys[1])
    np.testing.assert_array_equal(ys[1], ys[2])


def test_what_is_not_installed_is_left_out_by_name(monkeypatch):
    find = importlib.util.find_spec
    absent = {"haiku", "torch"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )
    assert {"Haiku", "PyTorch"} <= set(libraries.missing())
    assert "Haiku" not in libraries.layers(ELEMENT_WISE, 4)
    assert {"dm-haiku", "torch"}.isdisjoint(libraries.versions())


def test_versions_name_what_is_measured():
    assert {"jax", "jaxlib", "flax", "flax-spatialdrop"} <= set(libraries.versions())
