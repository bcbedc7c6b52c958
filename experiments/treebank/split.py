"""Splits a treebank by document, so that no sentence is in two parts."""

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from ..errors import InputError
from .conllu import Sentence


def split(sentences: list[Sentence], test: list[Sentence], seed: int) -> dict[str, list[Sentence]]:
    """Splits whole documents at random, 80 : 10 : 10, or 90 : 10 if a test part is given.

    Sentences with the same words are kept once. Sentences of a given test part are removed from the
    other parts.
    """
    test = _unique(test)
    sentences = _unique(sentences, but={s.words for s in test})
    if test and not sentences:
        raise InputError(
            "the test part has every sentence of the corpus, so none is left for training"
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
