"""Turns sentences into windows of numbered words."""

from collections import Counter
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from .. import ngram
from ..errors import InputError
from ..task import Data, Split
from . import corpora
from .corpora import Words

ORDER = 3
"""Of the baseline: it predicts a word from the two before it."""
UNKNOWN, END = "<unk>", "<eos>"
"""The word in place of all rare ones, and the one that ends a sentence, as in the Penn Treebank."""


def load(data: ConfigDict) -> Data:
    """Loads the text of a config's `data` part, and turns it into examples."""
    parts = corpora.read(data.source, data.path, data.split_seed)
    limits = (data.train_words, data.validation_words, data.test_words)
    texts = {
        name: join(part)[: limit + 1 if limit else None]
        for (name, part), limit in zip(parts.items(), limits, strict=True)
    }
    numbers = vocabulary(texts["train"], data.vocabulary)
    streams = {name: encode(text, numbers) for name, text in texts.items()}
    for name, stream in streams.items():
        if len(stream) < 2:
            raise InputError(f"the {name} part must have at least one word: got none")
    size = len(numbers)
    baseline, weights = ngram.perplexity(
        streams["train"], streams["validation"], streams["test"], size, ORDER
    )
    record = {
        **{name: count(stream) for name, stream in streams.items()},
        "vocabulary": size,
        "text": data.path or data.source,
        "ngram_weights": weights,
    }
    return Data(
        cut(streams["train"], data.window),
        cut(streams["validation"], data.window, data.context),
        cut(streams["test"], data.window, data.context),
        baseline,
        describe(record, data),
        record,
    )


def join(sentences: list[Words]) -> list[str]:
    """Joins sentences to one text. An end comes first, to predict the first word."""
    return [END, *(word for sentence in sentences for word in (*sentence, END))]


def vocabulary(train: list[str], size: int) -> dict[str, int]:
    """Numbers the `size - 1` most frequent words from 1. The unknown word has the number 0."""
    counts = Counter(train)
    del counts[UNKNOWN]  # which files such as those of the Penn Treebank contain
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: size - 1]
    return {UNKNOWN: 0} | {word: number for number, word in enumerate(frequent, start=1)}


def encode(text: list[str], numbers: dict[str, int]) -> np.ndarray:
    """Returns the number of every word."""
    return np.array([numbers.get(word, 0) for word in text], np.int32)


def cut(stream: np.ndarray, window: int, context: int = 0) -> Split:
    """Cuts windows in which every word but the first of the text is counted once.

    The first `context` words of a window were counted in the window before. The first window
    begins with as many copies of the first word, so every counted word has a context.
    """
    padded = np.concatenate([np.repeat(stream[:1], context), stream])
    targets, stride = len(padded) - 1, window - context
    starts = np.arange(0, targets - context, stride)
    places = starts[:, None] + np.arange(window)
    counted = (np.arange(window) >= context) & (places < targets)
    places = np.minimum(places, targets - 1)
    return Split((padded[places],), padded[places + 1], counted)


def count(stream: np.ndarray) -> dict[str, Any]:
    """Counts the words of a part."""
    return {"words": len(stream) - 1, "share_unknown": float(np.mean(stream[1:] == 0))}


def describe(record: dict[str, Any], data: ConfigDict) -> str:
    """Describes the text in sentences."""
    parts = "; ".join(
        f"{name} {record[name]['words']} words ({100 * record[name]['share_unknown']:.1f} % "
        "unknown)"
        for name in corpora.PARTS
    )
    return (
        f"{record['text']}: {parts}. {record['vocabulary']} different words, the most frequent of "
        f"training, with {END} for the end of a sentence and {UNKNOWN} for all other words. A "
        f"network sees at most {data.window} words. In validation and test each word is "
        f"predicted once, from at least {data.context + 1} words before it. The {ORDER}-gram "
        "mixes all shorter ones, with weights fitted to validation data."
    )
