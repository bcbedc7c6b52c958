"""The smoke configs of the language models of words, made smaller, for a text in files."""

import numpy as np
import pytest

from configs.word_language_model import get_config


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """Writes sentences of six words in which each word tells the next."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    for name, sentences in {"train": 60, "valid": 12, "test": 15}.items():
        starts = rng.integers(0, 8, sentences)
        lines = [" ".join("abcdefgh"[(s + i) % 8] for i in range(6)) for s in starts]
        (folder / f"ptb.{name}.txt").write_text("".join(f" {line} \n" for line in lines))
    return folder


@pytest.fixture(params=["lstm", "transformer"])
def words_config(request, text_folder):
    config = get_config("smoke")
    if request.param == "transformer":
        config.task = "word_transformer"
        config.regularizers = ("none", "all")
    config.update({"features": 8, "heads": 2, "layers": 1, "batch_size": 4, "epochs": 4})
    config.mesh.runs = 1  # on one device
    config.data.update({"path": str(text_folder), "vocabulary": 10, "window": 8, "context": 3})
    config.data.update({"train_words": 0, "validation_words": 0, "test_words": 0})
    return config
