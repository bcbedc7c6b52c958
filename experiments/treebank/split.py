"""Whole documents for training, validation and test, and no sentence in two of them."""

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from ..errors import InputError
from .conllu import Sentence


def split(sentences: list[Sentence], test: list[Sentence], seed: int) -> dict[str, list[Sentence]]:
    """Divides whole documents at random, 80 : 10 : 10, or 90 : 10 where a test part is given.

    Of sentences with the same words only the first is kept, and none that the test part has.
    """
    test = _unique(test)
    sentences = _unique(sentences, but={s.words for s in test})
    if test and not sentences:
        raise InputError(
            "the test part holds every sentence of the corpus: none is left to train on"
        )
    documents: dict[str, list[Sentence]] = defaultdict(list)
    for sentence in sentences:
        documents[sentence.document].append(sentence)
    if len(documents) < 3:
        raise InputError(f"a split by document needs at least 3 documents: got {len(documents)}")
    names = np.random.default_rng(seed).permutation(sorted(documents)).tolist()
    tenth = max(1, len(names) // 10)
    if not test:
        test = _join(documents, names[:tenth])
        names = names[tenth:]
    return {
        "train": _join(documents, names[tenth:]),
        "validation": _join(documents, names[:tenth]),
        "test": test,
    }


def _unique(sentences: list[Sentence], but: Collection[tuple[str, ...]] = ()) -> list[Sentence]:
    first: dict[tuple[str, ...], Sentence] = {}
    for sentence in sentences:
        if sentence.words not in but:
            first.setdefault(sentence.words, sentence)
    return list(first.values())


def _join(documents: dict[str, list[Sentence]], names: list[str]) -> list[Sentence]:
    return [sentence for name in names for sentence in documents[name]]
