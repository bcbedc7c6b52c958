import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .networks import WORDS, init, scores
from .networks import recurrent as model


@pytest.fixture(scope="module")
def params():
    return init(model)


def same(regularizer, params, words):
    """Returns at which times [batch, time] the scores are those of the last time."""
    y = scores(model(regularizer), params, words, 0.5)
    return np.isclose(y, y[:, -1:], rtol=1e-4, atol=1e-4).all(2)


def test_masks_are_shared_by_all_words_of_a_window_except_element_wise_ones(params):
    # Without a recurrence, the same input gives the same output unless the mask is new.
    without = jax.tree_util.tree_map_with_path(
        lambda path, x: 0.0 * x if _is_recurrent(path) else x, params
    )
    words = jnp.full((3, 60), 2)
    for regularizer in ("embedding", "inputs", "outputs", "variational"):
        assert same(regularizer, without, words)[:, 40:].all(), regularizer
    assert not same("element-wise", without, words)[:, 40:-1].any()


def test_weights_are_the_same_for_the_whole_batch_and_states_are_not(params):
    words = jnp.full((2, 9), 2)
    weights, states = (scores(model(name), params, words, 0.5) for name in ("weights", "states"))
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-6)
    assert (states[0] != states[1]).any()
    for y in (weights, states):  # the first word has no state to drop
        plain = scores(model(), params, words, 0.5)
        np.testing.assert_allclose(y[:, 0], plain[:, 0], rtol=1e-5)


def test_weights_are_dropped_at_the_rate_with_a_gradient_for_those_that_are_kept(params):
    def total(params):
        return scores(model("weights"), params, WORDS, 0.25).sum()

    grads = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(params))
    recurrent = np.concatenate([np.ravel(g) for path, g in grads if _is_recurrent(path, "kernel")])
    assert len(recurrent) == 2 * 4 * 8 * 8
    assert 0.17 < np.mean(recurrent == 0) < 0.33
    assert all((g != 0).all() for path, g in grads if "'ii'" in str(path) and "kernel" in str(path))


def _is_recurrent(path, kind=""):
    text = jax.tree_util.keystr(path)
    return any(f"['{gate}']" in text for gate in ("hi", "hf", "hg", "ho")) and kind in text
