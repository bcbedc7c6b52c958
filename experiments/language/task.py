"""The language modeling task."""

from typing import ClassVar

from flax import linen as nn
from ml_collections import ConfigDict

from .. import checks
from ..categorical import LanguageModeling, perplexity
from ..errors import InputError
from ..task import Data
from ..transformer import ATTENTIONS, FORMS
from . import text
from .models import LanguageModel

SIZES = ("layers", "features", "heads")
DATA_SIZES = ("window", "train_stride", "min_count")
LIMITS = ("train_sentences", "validation_sentences", "test_sentences", "split_seed")


class Language(LanguageModeling):
    """Predicts the next character. The score is the perplexity."""

    metric = perplexity("characters", f"{text.ORDER}-gram")
    regularizers: ClassVar = {name: None if name == "none" else "none" for name in FORMS}

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Raises InputError for an invalid field."""
        checks.has("config", config, ("attention", *SIZES))
        checks.has("config.data", config.data, ("path", *DATA_SIZES, *LIMITS))
        checks.text("config.data", config.data, ("path",))
        checks.one_of("config.attention", config.attention, ATTENTIONS)
        checks.at_least(1, "config", config, SIZES)
        checks.at_least(1, "config.data", config.data, DATA_SIZES)
        checks.at_least(0, "config.data", config.data, LIMITS)
        checks.heads(config)
        if config.data.train_stride > config.data.window:
            raise InputError(
                "config.data.train_stride must be at most the window, to use all characters: "
                f"got {config.data.train_stride} and {config.data.window}"
            )
        if config.attention == "flax" and set(config.regularizers) != {"none"}:
            raise InputError(
                "config.attention=flax needs config.regularizers=('none',), because Flax's own "
                f"attention takes no traced rate: got {', '.join(config.regularizers)}"
            )

    @staticmethod
    def load(data: ConfigDict) -> Data:
        """Reads the treebank's sentences, and splits them by document."""
        return text.load(data)

    def network(self, regularizer: str) -> nn.Module:
        """Returns a transformer of the config's sizes."""
        config = self.config
        return LanguageModel(
            self.data.record["characters"],
            config.layers,
            config.features,
            config.heads,
            config.attention,
            regularizer,
            config.dtype,
        )
