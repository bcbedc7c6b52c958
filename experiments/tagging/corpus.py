"""Turns a treebank into padded arrays: splits by document, limits sizes, and encodes."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from ..errors import InputError
from ..task import Split
from ..treebank import conllu
from ..treebank.conllu import Sentence
from ..treebank.split import split
from . import vocabulary
from .vocabulary import Vocabulary


class Corpus(NamedTuple):
    """The parts for training, validation and test, with their vocabulary and statistics."""

    parts: tuple[Split, Split, Split]
    vocabulary: Vocabulary
    baseline: float
    statistics: dict[str, dict[str, int]]
    documents_by: str


def load(data: ConfigDict) -> Corpus:
    """Reads and splits the corpus of a config's `data` part."""
    path = Path(data.path) if data.path else conllu.treebank_path()
    treebank = conllu.read(path)
    given = conllu.read(Path(data.test_path)).sentences if data.test_path else []
    parts = split(treebank.sentences, given, data.split_seed)
    sources = {"train": path, "validation": path, "test": data.test_path or path}
    limits = (data.train_sentences, data.validation_sentences, data.test_sentences)
    kept, statistics = {}, {}
    for (name, part), limit in zip(parts.items(), limits, strict=True):
        short = [s for s in part if len(s.words) <= data.max_length]
        kept[name] = short[:limit] if limit else short
        if not kept[name]:
            raise InputError(
                f"{sources[name]} has no {name} sentence of at most {data.max_length} words "
                "after removing duplicates and splitting by document"
            )
        statistics[name] = {
            "sentences": len(kept[name]),
            "tokens": sum(len(s.words) for s in kept[name]),
            "documents": len({s.document for s in kept[name]}),
            "left_out_as_too_long": len(part) - len(short),
        }
    words = vocabulary.build(kept["train"], data.min_count, data.min_class_count)
    time = max(len(s.words) for part in kept.values() for s in part)
    train, validation, test = (arrays(part, words, time) for part in kept.values())
    baseline = most_frequent_tag_accuracy(kept["train"], kept["test"])
    return Corpus((train, validation, test), words, baseline, statistics, treebank.documents_by)


def describe(corpus: Corpus) -> str:
    """Describes the corpus in sentences."""
    parts = [
        f"{name} {part['sentences']} sentences ({part['tokens']} tokens, {part['documents']} "
        f"documents; {part['left_out_as_too_long']} too long, left out)"
        for name, part in corpus.statistics.items()
    ]
    return f"{'; '.join(parts)}. Documents were told apart by: {corpus.documents_by}."


def arrays(sentences: list[Sentence], words: Vocabulary, time: int) -> Split:
    """Encodes the sentences, and pads them to the same length `time`.

    Inputs are words [sentence, time], with 0 for padding, and lengths [sentence].
    """
    numbers = np.zeros((len(sentences), time), np.int32)
    tags = np.zeros((len(sentences), time), np.int32)
    lengths = np.array([len(s.words) for s in sentences], np.int32)
    for row, sentence in enumerate(sentences):
        length = len(sentence.words)
        numbers[row, :length], tags[row, :length] = words.encode(sentence)
    return Split((numbers, lengths), tags, np.arange(time) < lengths[:, None])


def most_frequent_tag_accuracy(train: list[Sentence], test: list[Sentence]) -> float:
    """Returns the accuracy of the baseline: each word gets its most frequent tag in training.

    A word that is not in training gets the most frequent tag of all words.
    """
    by_word: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in train:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            by_word[word][tag] += 1
    overall = sum(by_word.values(), Counter()).most_common(1)[0][0]
    guess = {word: tags.most_common(1)[0][0] for word, tags in by_word.items()}
    right = [
        guess.get(word, overall) == tag
        for sentence in test
        for word, tag in zip(sentence.words, sentence.tags, strict=True)
    ]
    return sum(right) / len(right)
