"""Numbers words and tags. Both vocabularies come from the training part only."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ..treebank.conllu import Sentence

PADDING, UNKNOWN = "<pad>", "<unk>"
UNSEEN_TAG = -1
"""The number of a tag that is not in training. No prediction equals it."""


class Vocabulary(NamedTuple):
    """The numbers of words (0 is padding, 1 an unknown word) and of tags."""

    words: dict[str, int]
    tags: dict[str, int]

    def encode(self, sentence: Sentence) -> tuple[list[int], list[int]]:
        """Returns the numbers of a sentence's words and of its tags."""
        words = [self._word(word) for word in sentence.words]
        return words, [self.tags.get(tag, UNSEEN_TAG) for tag in sentence.tags]

    def _word(self, word: str) -> int:
        for name in (normalize(word), unknown_class(word)):
            if name in self.words:
                return self.words[name]
        return self.words[UNKNOWN]


def build(sentences: Iterable[Sentence], min_count: int, min_class_count: int) -> Vocabulary:
    """Collects words and tags.

    A word that occurs fewer than `min_count` times would get a nearly untrained vector. So it
    shares the vector of its unknown-word class. A class of fewer than `min_class_count` such words
    becomes `<unk>`. New words use the same classes.
    """
    sentences = list(sentences)
    counts = Counter(normalize(word) for s in sentences for word in s.words)
    frequent = [word for word, count in counts.items() if count >= min_count]
    rare = Counter(
        unknown_class(word)
        for s in sentences
        for word in s.words
        if counts[normalize(word)] < min_count
    )
    classes = [name for name, count in rare.items() if count >= min_class_count]
    names = [PADDING, UNKNOWN, *sorted(frequent), *sorted(classes)]
    tags = sorted({tag for s in sentences for tag in s.tags})
    return Vocabulary(
        {name: index for index, name in enumerate(names)},
        {tag: index for index, tag in enumerate(tags)},
    )


def normalize(word: str) -> str:
    """Lowercases a word and writes every digit as 0."""
    return re.sub(r"\d", "0", word.lower())


def unknown_class(word: str) -> str:
    """Returns the class of a rare word: its last three characters, such as `<unk:-ção>`."""
    return f"<unk:-{normalize(word)[-3:]}>"
