"""Reads CoNLL-U treebanks into sentences of words and part-of-speech tags."""

import re
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..installed import installed_file, user_file

_SENT_ID = re.compile(r"#\s*sent_id\s*=\s*(.+)")
_TEXT = re.compile(r"#\s*text\s*=\s*(.+)")
_NEWDOC = re.compile(r"#\s*newdoc\b")
_WORD = re.compile(r"\d+")
_NOT_A_WORD = re.compile(r"\d+-\d+|\d+\.\d+")  # a multiword token's range, an empty node
_DOCUMENT = re.compile(r"(.+)[-_.][A-Za-z]*\d+")  # FOLHA_DOC000001_SENT003 -> FOLHA_DOC000001


class Sentence(NamedTuple):
    """The syntactic words of a sentence, their tags and the document they come from.

    `text` is the sentence as written: "da casa", for example, for the words "de", "a", "casa".
    """

    document: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    text: str


class Treebank(NamedTuple):
    """The sentences of a file, and the rule that identified its documents."""

    sentences: list[Sentence]
    documents_by: str


def treebank_path() -> Path:
    """Finds the Porttinari treebank inside the package dante-corpora."""
    where = ("data", "porttinari", "annotated.conllu")
    return installed_file(
        "treebank", "dante", "--no-deps dante-corpora==2.0.5", "CoNLL-U file", *where
    )


def read(path: Path) -> Treebank:
    """Reads a CoNLL-U file. Skips multiword-token ranges (5-6) and empty nodes (8.1).

    The document of a sentence is its `sent_id` without the last part (`_SENT003`, `-0012`). If that
    does not identify documents, `# newdoc` lines do. Otherwise each sentence is its own document.
    The text of a sentence without `# text` is its words, joined by spaces.
    """
    ids: list[str] = []
    newdocs: list[int] = []
    texts: list[str] = []
    words: list[tuple[str, str]] = []
    sentences: list[list[tuple[str, str]]] = []
    sent_id, text, newdoc = "", "", 0
    for number, line in enumerate([*_lines(path), ""], start=1):
        if match := _SENT_ID.match(line):
            sent_id = match[1].strip()
        elif match := _TEXT.match(line):
            text = match[1].strip()
        elif _NEWDOC.match(line):
            newdoc += 1
        elif line.strip() and not line.startswith("#"):
            words.extend(_word(line, len(words) + 1, f"{path}, line {number}"))
        elif not line.strip() and words:
            ids.append(sent_id)
            newdocs.append(newdoc)
            texts.append(text or " ".join(form for form, _ in words))
            sentences.append(words)
            sent_id, text, words = "", "", []
    if not sentences:
        raise InputError(f"{path} has no sentences")
    documents, rule = _documents(ids, newdocs)
    columns = (zip(*words, strict=True) for words in sentences)
    return Treebank(
        [
            Sentence(document, words, tags, text)
            for document, (words, tags), text in zip(documents, columns, texts, strict=True)
        ],
        rule,
    )


def _lines(path: Path) -> list[str]:
    path = user_file(path, "corpus")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the corpus {path}: {error.strerror}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text") from error
    # str.splitlines would also split at characters that may be inside a word.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _word(line: str, expected: int, place: str) -> list[tuple[str, str]]:
    columns = line.split("\t")
    if len(columns) != 10:
        raise InputError(
            f"{place}: a token line must have 10 columns, separated by tabs: got {len(columns)}"
        )
    number, form, _, tag = columns[:4]
    if _NOT_A_WORD.fullmatch(number):
        return []
    if not _WORD.fullmatch(number):
        raise InputError(f"{place}: column 1 must be a word's number: got {number!r}")
    if number != str(expected):  # a blank line inside a sentence would split it
        raise InputError(f"{place}: the next word must have the number {expected}: got {number}")
    if not form or tag in ("", "_"):
        raise InputError(f"{place}: a word needs a form in column 2 and a tag in column 4")
    return [(form, tag)]


def _documents(ids: list[str], newdocs: list[int]) -> tuple[list[str], str]:
    """Returns the document of every sentence, and the rule in words."""
    matches = [_DOCUMENT.fullmatch(sent_id) for sent_id in ids]
    by_id = [match[1] for match in matches if match]
    by_newdoc = [str(newdoc) for newdoc in newdocs]
    for documents, rule in ((by_id, "sent_id prefix"), (by_newdoc, "newdoc")):
        # Fewer than three cannot be split: the prefix of "train-s1" and "train-s2" names a file.
        if len(documents) == len(ids) and len(set(documents)) >= 3:
            return documents, rule
    return [str(index) for index in range(len(ids))], "each sentence its own"
