"""The tasks of language modeling by words: with an LSTM, and with a transformer."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from .. import checks
from ..categorical import LanguageModeling, perplexity
from ..errors import InputError
from ..task import Data, Predict, Split, batches
from . import corpora, figure, lstm, text, transformer

PASSES = 10
"""Of Monte Carlo dropout."""
WINDOWS_AT_ONCE = 64
"""In Monte Carlo dropout."""
SIZES = ("layers", "features")
LIMITS = ("train_words", "validation_words", "test_words", "context", "split_seed")
PERPLEXITY = perplexity("words", f"{text.ORDER}-gram")


class Words(LanguageModeling):
    """Predicts the next word. The score is the perplexity."""

    metric = PERPLEXITY

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        checks.has("config", config, SIZES)
        checks.has("config.data", config.data, ("source", "path", "vocabulary", "window", *LIMITS))
        checks.text("config.data", config.data, ("path",))
        checks.one_of("config.data.source", config.data.source, corpora.SOURCES)
        checks.at_least(1, "config", config, SIZES)
        checks.at_least(2, "config.data", config.data, ("vocabulary",))
        checks.at_least(1, "config.data", config.data, ("window",))
        checks.at_least(0, "config.data", config.data, LIMITS)
        if config.data.context >= config.data.window:
            raise InputError(
                "config.data.context must be below config.data.window, to leave words to predict: "
                f"got {config.data.context} and {config.data.window}"
            )

    @staticmethod
    def load(data: ConfigDict) -> Data:
        """Reads the text of each part."""
        return text.load(data)


class WordLSTM(Words):
    """Language modeling with an LSTM, which is also measured by Monte Carlo dropout."""

    figures: ClassVar = {"published_order.png": figure.draw}

    regularizers: ClassVar = {
        name: "none" if places else None for name, places in lstm.PLACES.items()
    }
    measures: ClassVar = {
        "monte_carlo": PERPLEXITY._replace(name=f"perplexity of {PASSES} passes"),
        "monte_carlo_gain": PERPLEXITY._replace(
            name=f"perplexity of {PASSES} passes, less that of one"
        ),
    }

    def network(self, regularizer: str) -> nn.Module:
        """Returns an LSTM of the config's sizes."""
        config = self.config
        return lstm.WordLSTM(
            self.data.record["vocabulary"],
            config.layers,
            config.features,
            lstm.PLACES[regularizer],
            config.dtype,
        )

    def measure(self, predict: Predict, rate: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Returns the test perplexity by Monte Carlo dropout, and what it adds to that of one pass.

        Monte Carlo dropout predicts the mean of the probabilities of passes with other masks.
        """

        def sums(given: tuple[Split, jax.Array]) -> jax.Array:
            batch, keys = given

            def log_likelihood(key: jax.Array | None) -> jax.Array:
                return -self.losses(predict(batch.inputs, key=key), batch.targets)

            passes = jax.lax.map(log_likelihood, keys)
            mean = jax.nn.logsumexp(passes, axis=0) - jnp.log(float(PASSES))
            both = jnp.stack([mean, log_likelihood(None)])
            return jnp.where(batch.counted, both, 0.0).sum((1, 2))

        test = batches(self.data.test, WINDOWS_AT_ONCE)
        keys = jax.random.split(key, (len(test.targets), PASSES))
        counted = np.sum(test.counted, dtype=np.float32)
        means = jax.lax.map(sums, (test, keys)).sum(0) / counted
        monte_carlo, one_pass = self.score(-means)
        return {"monte_carlo": monte_carlo, "monte_carlo_gain": monte_carlo - one_pass}


class WordTransformer(Words):
    """Language modeling with a transformer."""

    regularizers: ClassVar = {
        name: "none" if places else None for name, places in transformer.PLACES.items()
    }

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        Words.check(config)
        checks.has("config", config, ("heads",))
        checks.at_least(1, "config", config, ("heads",))
        checks.heads(config)

    def network(self, regularizer: str) -> nn.Module:
        """Returns a transformer of the config's sizes."""
        config = self.config
        return transformer.WordTransformer(
            self.data.record["vocabulary"],
            config.layers,
            config.features,
            config.heads,
            transformer.PLACES[regularizer],
            config.dtype,
        )
