"""Turns a treebank into windows of characters: splits by document, encodes, and cuts."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from .. import ngram
from ..task import Data, Split
from ..treebank import conllu
from ..treebank.conllu import Sentence
from ..treebank.split import split

ORDER = 5
"""Of the baseline: it predicts a character from the four before it."""
UNKNOWN = 0
"""The number of all characters that are rare in training, or not there."""


def load(data: ConfigDict) -> Data:
    """Loads the sentences of a config's `data` part, and turns them into examples."""
    treebank = conllu.read(Path(data.path) if data.path else conllu.treebank_path())
    parts = split(treebank.sentences, [], data.split_seed)
    limits = (data.train_sentences, data.validation_sentences, data.test_sentences)
    kept = {
        name: part[:limit] if limit else part
        for (name, part), limit in zip(parts.items(), limits, strict=True)
    }
    texts = {name: join(part) for name, part in kept.items()}
    numbers = vocabulary(texts["train"], data.min_count)
    streams = {name: encode(text, numbers) for name, text in texts.items()}
    strides = {"train": data.train_stride, "validation": data.window, "test": data.window}
    train, validation, test = (
        cut(stream, data.window, strides[name]) for name, stream in streams.items()
    )
    size = 1 + len(numbers)
    baseline, weights = ngram.perplexity(
        streams["train"], streams["validation"], streams["test"], size, ORDER
    )
    record = {
        **{name: count(kept[name], streams[name]) for name in streams},
        "characters": size,
        "documents_by": treebank.documents_by,
        "ngram_weights": weights,
    }
    return Data(train, validation, test, baseline, describe(record, data), record)


def join(sentences: list[Sentence]) -> str:
    """Writes one sentence per line. A line end comes first, to predict the first character."""
    return "\n" + "".join(f"{sentence.text}\n" for sentence in sentences)


def vocabulary(train: str, min_count: int) -> dict[str, int]:
    """Numbers the characters that occur at least `min_count` times, from 1."""
    frequent = sorted(c for c, count in Counter(train).items() if count >= min_count)
    return {character: number for number, character in enumerate(frequent, start=1)}


def encode(text: str, numbers: dict[str, int]) -> np.ndarray:
    """Returns the number of every character."""
    return np.array([numbers.get(character, UNKNOWN) for character in text], np.int32)


def cut(stream: np.ndarray, window: int, stride: int) -> Split:
    """Cuts windows that begin a stride apart. Every character but the first is a target.

    If the stride equals the window, every character is a target exactly once.
    """
    targets = len(stream) - 1
    starts = stride * np.arange(1 + -(-max(0, targets - window) // stride))
    places = starts[:, None] + np.arange(window)
    counted = places < targets
    places = np.minimum(places, targets - 1)
    return Split((stream[places],), stream[places + 1], counted)


def count(sentences: list[Sentence], stream: np.ndarray) -> dict[str, Any]:
    """Counts sentences, documents and characters of a part."""
    return {
        "sentences": len(sentences),
        "documents": len({sentence.document for sentence in sentences}),
        "characters": len(stream) - 1,
        "share_unknown": float(np.mean(stream[1:] == UNKNOWN)),
    }


def describe(record: dict[str, Any], data: ConfigDict) -> str:
    """Describes the text in sentences."""
    counts = {name: record[name] for name in ("train", "validation", "test")}
    parts = [
        f"{name} {part['characters']} characters ({part['sentences']} sentences, "
        f"{part['documents']} documents; {100 * part['share_unknown']:.2f} % unknown)"
        for name, part in counts.items()
    ]
    return (
        f"{'; '.join(parts)}. A sentence a line; documents were told apart by: "
        f"{record['documents_by']}. {record['characters']} different characters, of which one "
        f"stands for all that training has fewer than {data.min_count} times. A network sees "
        f"at most {data.window} characters: training windows start {data.train_stride} apart, "
        "those of validation and test behind each other, so that each character is predicted once. "
        f"The {ORDER}-gram mixes all shorter ones, with weights fitted to validation data."
    )
