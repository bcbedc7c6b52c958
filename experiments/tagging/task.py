"""The tagging task."""

from typing import ClassVar

from flax import linen as nn
from ml_collections import ConfigDict

from .. import checks
from ..categorical import Classifying, accuracy
from ..task import Data
from . import corpus
from .models import MODELS, REGULARIZERS

SIZES = ("features", "hidden")
RATES = ("dropout", "recurrent_dropout")
DATA_SIZES = ("max_length", "min_count", "min_class_count")
LIMITS = ("train_sentences", "validation_sentences", "test_sentences", "split_seed")


class Tagging(Classifying):
    """Predicts a tag for every word. The score is the accuracy."""

    metric = accuracy("most frequent tag")
    regularizers: ClassVar = {name: None if name == "none" else "none" for name in REGULARIZERS}

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        checks.has("config", config, ("model", *SIZES, *RATES))
        checks.has("config.data", config.data, ("path", "test_path", *DATA_SIZES, *LIMITS))
        checks.text("config.data", config.data, ("path", "test_path"))
        checks.one_of("config.model", config.model, MODELS)
        checks.at_least(1, "config", config, SIZES)
        checks.at_least(1, "config.data", config.data, DATA_SIZES)
        checks.at_least(0, "config.data", config.data, LIMITS)
        for name in RATES:
            checks.rate(f"config.{name}", config[name])

    @staticmethod
    def load(data: ConfigDict) -> Data:
        """Reads the treebank, and splits it by document."""
        loaded = corpus.load(data)
        record = {
            **loaded.statistics,
            "documents_by": loaded.documents_by,
            "words": len(loaded.vocabulary.words),
            "tags": len(loaded.vocabulary.tags),
        }
        description = corpus.describe(loaded)
        return Data(*loaded.parts, loaded.baseline, description, record)

    def network(self, regularizer: str) -> nn.Module:
        """Returns a tagger of the config's sizes."""
        sizes = self.data.record["words"], self.data.record["tags"]
        config = self.config
        return MODELS[config.model](
            *sizes,
            config.features,
            config.hidden,
            regularizer,
            config.dropout,
            config.recurrent_dropout,
            config.dtype,
        )
