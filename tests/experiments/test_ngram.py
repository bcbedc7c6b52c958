import numpy as np
import pytest

from experiments import ngram

ORDER = 5
TRAIN = np.array([0, 1, 2, 1, 2, 1, 3, 1, 0])


def test_the_orders_by_hand():
    rows = ngram.probabilities(TRAIN, np.array([0, 1, 2, 3]), 5, ORDER)
    assert rows.shape == (ORDER + 1, 3)
    np.testing.assert_allclose(rows[0], 1 / 5)
    # Of the 8 characters after the first, 4 are 1, 2 are 2 and 1 is 3.
    np.testing.assert_allclose(rows[1], [4 / 8, 2 / 8, 1 / 8])
    # After 0 comes 1; after 1 comes 2 in two of four cases; after 2 always comes 1, never 3.
    np.testing.assert_allclose(rows[2], [1, 2 / 4, 0])
    # After 1, 2 always comes 1.
    np.testing.assert_allclose(rows[3][2], 0)


def test_behind_what_training_never_showed_the_shorter_gram_speaks():
    rows = ngram.probabilities(TRAIN, np.array([4, 4, 1]), 5, ORDER)
    np.testing.assert_allclose(rows[2:, 1], rows[1, 1])
    assert rows[1, 1] == 4 / 8


def test_every_order_gives_all_characters_together_one():
    for before in ([0, 1], [2, 1], [3, 3]):
        endings = [
            ngram.probabilities(TRAIN, np.array([*before, c]), 5, ORDER)[:, -1] for c in range(5)
        ]
        np.testing.assert_allclose(np.sum(endings, axis=0), 1)


def test_the_weights_are_the_best_for_what_they_are_fitted_to():
    rng = np.random.default_rng(0)
    rows = rng.uniform(0.01, 1, (3, 200)) * [[1], [0.5], [0.9]]
    weights = ngram.fit(rows)
    assert weights.sum() == pytest.approx(1)
    best = np.log(weights @ rows).mean()
    for other in rng.dirichlet(np.ones(3), 200):
        assert np.log(other @ rows).mean() <= best + 1e-6


def test_the_weights_do_not_see_the_test():
    streams = [np.random.default_rng(seed).integers(0, 5, 60) for seed in range(4)]
    train, validation, one, other = streams
    first, weights = ngram.perplexity(train, validation, one, 5, ORDER)
    second, same = ngram.perplexity(train, validation, other, 5, ORDER)
    assert weights == same
    assert first != second


def test_text_that_training_shows_is_not_hard_to_guess():
    cycle = np.tile(np.arange(5), 20)
    assert ngram.perplexity(cycle, cycle, cycle, 5, ORDER)[0] == pytest.approx(1, abs=0.01)
    noise = np.random.default_rng(0).integers(0, 5, 3000)
    assert ngram.perplexity(noise[:1000], noise[1000:2000], noise[2000:], 5, ORDER)[0] > 4.9
