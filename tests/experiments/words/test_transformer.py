import jax
import numpy as np
import pytest

from .networks import WORDS, init, scores
from .networks import attending as model


@pytest.fixture(scope="module")
def params():
    return init(model)


def test_layers_are_dropped_whole_and_the_last_one_most(params):
    """At a rate of 1 the last block is the identity, and the first one drops half its branches."""
    zeroed = jax.tree_util.tree_map_with_path(
        lambda path, x: 0.0 * x if "Block_0" in str(path) else x, params
    )
    without = jax.tree_util.tree_map_with_path(
        lambda path, x: 0.0 * x if "Block_" in str(path) and "Norm" not in str(path) else x, params
    )
    dropped = scores(model("layer"), zeroed, WORDS, 1.0)
    np.testing.assert_allclose(dropped, scores(model(), without, WORDS, 0.0), rtol=1e-5, atol=1e-6)
    first = scores(model("layer"), params, WORDS, 1.0)
    changed = np.abs(first - dropped).max((1, 2)) > 1e-5
    assert changed.any()
