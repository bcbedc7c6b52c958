from functools import partial

import jax
import numpy as np
import pytest

from experiments.words.transformer import PLACES, WordTransformer

WORDS = jax.random.randint(jax.random.key(0), (3, 9), 0, 7)
DROPPING = [name for name, places in PLACES.items() if places]


def model(regularizer="none"):
    return WordTransformer(7, 2, 8, 2, PLACES[regularizer])


@pytest.fixture(scope="module")
def params():
    return jax.jit(partial(model().init, deterministic=True))(jax.random.key(1), WORDS, 0.0)


@partial(jax.jit, static_argnums=0)
def scores(net, params, words, rate, seed=3):
    rngs = {"dropout": jax.random.key(seed)}
    return net.apply(params, words, rate, deterministic=False, rngs=rngs)


def test_a_later_word_changes_no_earlier_score_and_an_earlier_one_changes_all(params):
    net = jax.jit(partial(model().apply, deterministic=True))
    plain = net(params, WORDS, 0.0)
    assert plain.shape == (3, 9, 7)
    other = net(params, WORDS.at[:, 4].set((WORDS[:, 4] + 1) % 7), 0.0)
    np.testing.assert_array_equal(other[:, :4], plain[:, :4])
    assert (other != plain).any(2)[:, 4:].all()


@pytest.mark.parametrize("regularizer", DROPPING)
def test_a_rate_of_0_and_evaluation_are_the_plain_network_and_another_key_is_not(
    params, regularizer
):
    plain = jax.jit(partial(model().apply, deterministic=True))(params, WORDS, 0.5)
    net = model(regularizer)
    np.testing.assert_allclose(scores(net, params, WORDS, 0.0), plain, rtol=1e-4, atol=1e-5)
    silent = jax.jit(partial(net.apply, deterministic=True))(params, WORDS, 0.5)
    np.testing.assert_allclose(silent, plain, rtol=1e-4, atol=1e-5)
    first, second = (scores(net, params, WORDS, 0.5, seed) for seed in (3, 4))
    assert (first != second).any()


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
