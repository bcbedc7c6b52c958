"""Small networks of words, and their scores."""

from functools import partial

import jax

from experiments.words import lstm, transformer

WORDS = jax.random.randint(jax.random.key(0), (3, 9), 0, 7)


def recurrent(regularizer="none"):
    return lstm.WordLSTM(7, 2, 8, lstm.PLACES[regularizer])


def attending(regularizer="none"):
    return transformer.WordTransformer(7, 2, 8, 2, transformer.PLACES[regularizer])


def init(model):
    return jax.jit(partial(model().init, deterministic=True))(jax.random.key(1), WORDS, 0.0)


@partial(jax.jit, static_argnums=0)
def scores(net, params, words, rate, seed=3):
    rngs = {"dropout": jax.random.key(seed)}
    return net.apply(params, words, rate, deterministic=False, rngs=rngs)
