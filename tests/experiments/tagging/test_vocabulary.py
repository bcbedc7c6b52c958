from experiments.tagging import vocabulary
from experiments.treebank.conllu import Sentence


def sentence(text, tag="X"):
    words = tuple(text.split())
    return Sentence("d", words, (tag,) * len(words), text)


def test_normalize_lowercases_and_marks_digits():
    assert vocabulary.normalize("Abril-2014") == "abril-0000"


def test_rare_words_share_the_vector_of_their_class():
    part = [sentence("casa Casa nação razão"), sentence("adição só", tag="Y")]
    words = vocabulary.build(part, min_count=2, min_class_count=2)
    assert list(words.words) == ["<pad>", "<unk>", "casa", "<unk:-ção>"]
    encoded, _ = words.encode(sentence("CASA emoção razão de"))
    assert encoded == [2, 3, 1, 1]


def test_words_and_tags_of_other_parts_are_unknown():
    words = vocabulary.build([sentence("a a")], min_count=1, min_class_count=1)
    assert words.encode(sentence("a b", tag="NEW")) == ([2, 1], [vocabulary.UNSEEN_TAG] * 2)


def test_no_word_can_be_taken_for_padding():
    words = vocabulary.build([sentence("<pad> <pad> <pad>")], min_count=1, min_class_count=1)
    assert words.encode(sentence("<pad>"))[0] != [0]
