import pytest

from experiments.errors import InputError
from experiments.treebank.conllu import Sentence
from experiments.treebank.split import split


def sentence(document, text):
    words = tuple(text.split())
    return Sentence(document, words, ("X",) * len(words), text)


DOCUMENTS = [sentence(f"d{n // 4}", f"word {n}") for n in range(120)]


def test_no_document_is_in_two_parts_and_no_sentence_is_lost():
    parts = split(DOCUMENTS, [], seed=0)
    documents = [{s.document for s in part} for part in parts.values()]
    assert [len(d) for d in documents] == [24, 3, 3]
    assert len(set.union(*documents)) == 30
    assert sorted(s.words for part in parts.values() for s in part) == sorted(
        s.words for s in DOCUMENTS
    )


def test_another_seed_is_another_split():
    assert split(DOCUMENTS, [], seed=0) != split(DOCUMENTS, [], seed=1)


def test_of_duplicates_the_first_is_kept():
    again = [sentence("other", "word 0"), sentence("other", "word 1")]
    parts = split([*DOCUMENTS, *again], [], seed=0)
    kept = [s for part in parts.values() for s in part]
    assert len(kept) == 120
    assert {s.document for s in kept if s.words == ("word", "0")} == {"d0"}


def test_a_given_test_part_is_taken_whole_and_kept_out_of_training():
    test = [sentence("t", "word 7"), sentence("t", "new"), sentence("t", "new")]
    parts = split(DOCUMENTS, test, seed=0)
    assert parts["test"] == test[:2]
    assert len(parts["train"]) + len(parts["validation"]) == 119
    assert all(s.words != ("word", "7") for s in parts["train"] + parts["validation"])


def test_too_few_documents():
    with pytest.raises(InputError, match="needs at least 3 documents: got 2"):
        split([sentence("a", "x"), sentence("b", "y")], [], seed=0)


def test_a_test_part_that_is_the_corpus_leaves_nothing_to_train_on():
    with pytest.raises(InputError, match=r"^the test part has every sentence of the corpus"):
        split(DOCUMENTS, [*DOCUMENTS, sentence("other", "more")], seed=0)
