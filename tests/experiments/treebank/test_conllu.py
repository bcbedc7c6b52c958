import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from experiments import installed
from experiments.errors import InputError
from experiments.treebank import conllu

from ..conftest import conllu as sentence

ROOT = Path(__file__).parents[3]


@pytest.fixture
def read(tmp_path):
    def write_and_read(text, encoding="utf-8"):
        path = tmp_path / "file.conllu"
        path.write_bytes(text.encode(encoding))
        return conllu.read(path)

    return write_and_read


def row(number, form, tag):
    return "\t".join([number, form, "_", tag, *"______"])


def test_skips_multiword_ranges_and_empty_nodes(read):
    lines = [
        "# text = na rua",
        row("1-2", "na", "_"),
        row("1", "em", "ADP"),
        row("2", "a", "DET"),
        row("2.1", "é", "VERB"),
        row("3", "rua", "NOUN"),
    ]
    [only] = read("\n".join(lines)).sentences
    assert only.words == ("em", "a", "rua")
    assert only.tags == ("ADP", "DET", "NOUN")


def test_a_sentence_is_written_as_its_text_says_else_as_its_words(read):
    words = [("em", "ADP"), ("a", "DET"), ("rua", "NOUN")]
    text = sentence(words, "s1", ["# text = na rua", "# text_en = in the street"])
    treebank = read(text + sentence(words, "s2"))
    assert [s.text for s in treebank.sentences] == ["na rua", "em a rua"]


def test_a_word_may_hold_a_unicode_line_separator_and_lines_may_end_in_crlf(read):
    assert [s.words for s in read(row("1", "a\u2028b", "X") + "\r\n\r\n").sentences] == [
        ("a\u2028b",)
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("2\tb", "a token line must have 10 columns, separated by tabs: got 2"),
        (row("two", "b", "X"), "column 1 must be a word's number: got 'two'"),
        (row("2", "b", "_"), "a word needs a form in column 2 and a tag in column 4"),
        (row("2", "", "X"), "a word needs a form in column 2 and a tag in column 4"),
        (row("3", "b", "X"), "the next word must have the number 2: got 3"),
        (row("1", "b", "X"), "the next word must have the number 2: got 1"),
        (row("02", "b", "X"), "the next word must have the number 2: got 02"),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_a_malformed_line_is_named_exactly(read, tmp_path, line, problem, end):
    text = sentence([("a", "X"), ("b", "X")], "s1") + "\n# c\n# d\n" + row("1", "a", "X") + "\n"
    with pytest.raises(InputError) as caught:
        read(text + line + end)
    assert str(caught.value) == f"{tmp_path / 'file.conllu'}, line 9: {problem}"


def test_a_blank_line_inside_a_sentence_does_not_make_two_of_it(read):
    lines = row("1", "a", "X"), "", row("2", "b", "X")
    with pytest.raises(InputError, match=r"line 3: the next word must have the number 1: got 2$"):
        read("\n".join(lines))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_end_of_line_and_a_byte_order_mark(read, end, encoding):
    text = sentence([("a", "X"), ("b", "Y")], "D1_S1") + sentence([("c", "X")], "D2_S1")
    treebank = read(text.replace("\n", end), encoding)
    assert [s.words for s in treebank.sentences] == [("a", "b"), ("c",)]


def test_bytes_that_are_not_utf8_are_named_by_line(read, tmp_path):
    with pytest.raises(InputError, match=r"file\.conllu, line 4: not UTF-8 text$"):
        read(sentence([("a", "X")], "s1") + row("1", "é", "X"), encoding="latin-1")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read the corpus .*no\.conllu: No such file"):
        conllu.read(tmp_path / "no.conllu")


@pytest.mark.parametrize("text", ["", "\n\n", "# sent_id = 1\n\n"])
def test_a_file_without_sentences(read, text):
    with pytest.raises(InputError, match=r"file\.conllu has no sentences$"):
        read(text)


@pytest.mark.parametrize(
    ("ids", "comments", "documents", "rule"),
    [
        (
            ["A1_SENT1", "A1_SENT2", "A2_SENT1", "B_SENT1"],
            [[]] * 4,
            ["A1", "A1", "A2", "B"],
            "sent_id prefix",
        ),
        (
            ["w-a-01", "w-a-02", "w-b-01", "w-c-01"],
            [[]] * 4,
            ["w-a", "w-a", "w-b", "w-c"],
            "sent_id prefix",
        ),
        (
            ["train-s1", "train-s2", "train-s3", "train-s4"],
            [["# newdoc"], [], ["# newdoc id = x"], ["# newdoc"]],
            ["1", "1", "2", "3"],
            "newdoc",
        ),
        ([None] * 3, [["# newdoc"], [], []], ["0", "1", "2"], "each sentence its own"),
    ],
    ids=["sent_id", "dashes", "newdoc", "neither"],
)
def test_documents(read, ids, comments, documents, rule):
    text = "".join(
        sentence([("a", "X")], sent_id, comment)
        for sent_id, comment in zip(ids, comments, strict=True)
    )
    treebank = read(text)
    assert [s.document for s in treebank.sentences] == documents
    assert treebank.documents_by == rule


def test_the_treebank_is_found_without_importing_its_package():
    assert conllu.treebank_path().is_file()
    assert "dante" not in sys.modules


def test_the_readme_installs_the_treebank_as_the_message_says(monkeypatch):
    """Without dependencies, since it pins a pandas that has no wheels for Python 3.13."""
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="the treebank is not installed: pip install") as caught:
        conllu.treebank_path()
    install = re.search("pip install --no-deps dante-corpora[^ ,]*", str(caught.value))[0]
    readme, project = ((ROOT / name).read_text("utf-8") for name in ("README.md", "pyproject.toml"))
    commands = re.findall("^pip install -e .* && python -m .*$", readme, re.MULTILINE)
    assert len(commands) == 2
    assert all(f" && {install} && python -m" in command for command in commands)
    extras = tomllib.loads(project)["project"]["optional-dependencies"]
    assert not [name for name in chain(*extras.values()) if "dante" in name]
