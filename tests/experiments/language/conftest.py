"""The smoke config of the language model, made smaller, for the corpus in a file."""

import pytest

from configs.language_model import get_config


@pytest.fixture
def language_config(corpus_path):
    config = get_config("smoke")
    config.update({"layers": 1, "features": 8, "heads": 2, "batch_size": 4})
    config.data.update({"path": str(corpus_path), "window": 16, "train_stride": 16})
    config.data.update({"train_sentences": 0, "validation_sentences": 0, "test_sentences": 0})
    return config
