"""CoNLL-U treebanks: a file becomes sentences of words and part-of-speech tags."""

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

    `text` is the sentence as it was written ("da casa", where the words are "de a casa").
    """

    document: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    text: str


class Treebank(NamedTuple):
    """The sentences of a file, and the rule that told its documents apart."""

    sentences: list[Sentence]
    documents_by: str


def treebank_path() -> Path:
    """Finds the Porttinari treebank inside the package dante-corpora."""
    where = ("data", "porttinari", "annotated.conllu")
    return installed_file("treebank", "dante", "--no-deps dante-corpora==2.0.5", "CoNLL-U", *where)


def read(path: Path) -> Treebank:
    """Reads a CoNLL-U file; multiword-token ranges (5-6) and empty nodes (8.1) are skipped.

    A document is what stands before the last part of `sent_id` (before `_SENT003`, `-0012`); where
    that does not tell documents apart, what a `# newdoc` opens; else each sentence is its own.
    A sentence without a `# text` is written as its words with spaces between them.
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
    # str.splitlines would also divide at characters that may stand inside a word.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _word(line: str, expected: int, place: str) -> list[tuple[str, str]]:
    columns = line.split("\t")
    if len(columns) != 10:
        raise InputError(
            f"{place}: a token line has 10 columns, divided by tabs: got {len(columns)}"
        )
    number, form, _, tag = columns[:4]
    if _NOT_A_WORD.fullmatch(number):
        return []
    if not _WORD.fullmatch(number):
        raise InputError(f"{place}: column 1 must be a word's number: got {number!r}")
    if number != str(expected):  # a blank line inside a sentence would make two of it
        raise InputError(f"{place}: the next word of its sentence is {expected}: got {number}")
    if not form or tag in ("", "_"):
        raise InputError(f"{place}: a word needs its form in column 2 and its tag in column 4")
    return [(form, tag)]


def _documents(ids: list[str], newdocs: list[int]) -> tuple[list[str], str]:
    """Returns every sentence's document, and the rule in words."""
    matches = [_DOCUMENT.fullmatch(sent_id) for sent_id in ids]
    by_id = [match[1] for match in matches if match]
    by_newdoc = [str(newdoc) for newdoc in newdocs]
    for documents, rule in ((by_id, "sent_id prefix"), (by_newdoc, "newdoc")):
        # Fewer than three cannot be split: "train-s1", "train-s2" name a file, not a document.
        if len(documents) == len(ids) and len(set(documents)) >= 3:
            return documents, rule
    return [str(index) for index in range(len(ids))], "each sentence its own"
