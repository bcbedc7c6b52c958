from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tagging.models import MODELS, REGULARIZERS, RegularizedEmbedding

WORDS = jnp.array([[2, 3, 4, 0, 0], [5, 2, 3, 4, 2]])
LENGTHS = jnp.array([3, 5])


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_regularizer_works_in_training_only_and_has_no_parameters(name):
    half = jnp.float32(0.5)
    rngs = {"dropout": jax.random.key(1)}
    plain = RegularizedEmbedding(6, 8, "none")
    params = plain.init(jax.random.key(0), WORDS, half, True)
    expected = plain.apply(params, WORDS, half, True)
    embed = RegularizedEmbedding(6, 8, name)
    np.testing.assert_array_equal(embed.apply(params, WORDS, half, True), expected)
    dropped = embed.apply(params, WORDS, half, False, rngs=rngs) == 0
    assert bool(dropped.any()) == (name not in ("none", "RecurrentDropout"))


def test_spatial_dropout_drops_the_same_channels_at_all_steps():
    embed = RegularizedEmbedding(6, 8, "SpatialDropout1D")
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    x, _ = embed.init_with_output(rngs, WORDS, jnp.float32(0.5), False)
    assert ((x == 0) == (x[:, :1] == 0)).all()


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    model = MODELS[request.param](6, 3, 8, 8)
    params = model.init(jax.random.key(0), WORDS, LENGTHS, jnp.float32(0), deterministic=True)
    return lambda words: model.apply(params, words, LENGTHS, jnp.float32(0), deterministic=True)


def test_padding_does_not_reach_the_scores_of_words(model):
    expected, padded = model(WORDS), model(jnp.pad(WORDS, ((0, 0), (0, 4))))
    assert expected.shape == (2, 5, 3)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(padded[row, :length], expected[row, :length], rtol=1e-5)


@pytest.mark.parametrize(("changed", "seen"), [(0, 2), (2, 0)])
def test_every_step_sees_the_words_before_and_after_it(model, changed, seen):
    scores = model(WORDS.at[0, changed].set(5))
    assert (scores[0, seen] != model(WORDS)[0, seen]).all()
    np.testing.assert_array_equal(scores[1], model(WORDS)[1])


@pytest.mark.parametrize("network", MODELS.values())
def test_recurrent_dropout_is_inside_the_grus(network):
    """A traced rate of 0 drops nothing; the rate of the arm replaces both rates of the config."""
    params = network(6, 3, 8, 8).init(
        jax.random.key(0), WORDS, LENGTHS, jnp.float32(0), deterministic=True
    )

    @partial(jax.jit, static_argnums=0)
    def scores(network, rate):
        rngs = {"dropout": jax.random.key(1)}
        return network.apply(params, WORDS, LENGTHS, rate, deterministic=False, rngs=rngs)

    plain = scores(network(6, 3, 8, 8), 0.5)
    arm = network(6, 3, 8, 8, "RecurrentDropout", dropout=0.9, recurrent_dropout=0.9)
    np.testing.assert_allclose(scores(arm, 0.0), plain, rtol=1e-6)
    classic = network(6, 3, 8, 8, dropout=0.5, recurrent_dropout=0.5)
    np.testing.assert_allclose(scores(arm, 0.5), scores(classic, 0.0), rtol=1e-6)
    for one in ({"dropout": 0.5}, {"recurrent_dropout": 0.5}):
        assert (scores(network(6, 3, 8, 8, **one), 0.0) != plain).any()
