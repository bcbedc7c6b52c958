from functools import partial

import jax
import numpy as np
import pytest

from experiments.words import transformer

from .networks import WORDS, attending, init, recurrent, scores

DROPPING = [
    *((recurrent, name) for name in ("element-wise", "variational", "AWD-LSTM")),  # everywhere
    *((attending, name) for name, places in transformer.PLACES.items() if places),
]


@pytest.mark.parametrize("model", [recurrent, attending])
def test_a_later_word_changes_no_earlier_score_and_an_earlier_one_changes_all(model):
    params = init(model)
    net = jax.jit(partial(model().apply, deterministic=True))
    plain = net(params, WORDS, 0.0)
    assert plain.shape == (3, 9, 7)
    other = net(params, WORDS.at[:, 4].set((WORDS[:, 4] + 1) % 7), 0.0)
    np.testing.assert_array_equal(other[:, :4], plain[:, :4])
    assert (other != plain).any(2)[:, 4:].all()


@pytest.mark.parametrize(("model", "regularizer"), DROPPING)
def test_a_rate_of_0_and_evaluation_are_the_plain_network_and_another_key_is_not(
    model, regularizer
):
    params = init(model)
    plain = jax.jit(partial(model().apply, deterministic=True))(params, WORDS, 0.5)
    net = model(regularizer)
    np.testing.assert_allclose(scores(net, params, WORDS, 0.0), plain, rtol=1e-4, atol=1e-5)
    silent = jax.jit(partial(net.apply, deterministic=True))(params, WORDS, 0.5)
    np.testing.assert_allclose(silent, plain, rtol=1e-4, atol=1e-5)
    first, second = (scores(net, params, WORDS, 0.5, seed) for seed in (3, 4))
    assert (first != second).any()
