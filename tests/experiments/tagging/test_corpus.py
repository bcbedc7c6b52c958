import pytest

from experiments.errors import InputError
from experiments.tagging import corpus
from experiments.treebank.conllu import Sentence

from ..conftest import conllu


def sentence(document, text, tags=None):
    words = tuple(text.split())
    return Sentence(document, words, tuple(tags.split()) if tags else ("X",) * len(words), text)


def test_the_baseline_by_hand():
    train = [sentence("d", "a a a b c c c", "X X Y Y Z Z Z")]
    test = [sentence("d", "a b", "Y Y"), sentence("d", "new other A", "Z X Z")]
    # "a" gets X (wrong), "b" gets Y (right). New words get Z, the most frequent tag: 2 of 3 right.
    assert corpus.most_frequent_tag_accuracy(train, test) == 3 / 5


def test_load_counts_what_it_leaves_out(config):
    config.data.max_length = 7  # every second sentence has 8 words
    loaded = corpus.load(config.data)
    statistics = loaded.statistics.values()
    assert sum(part["sentences"] for part in statistics) == 30
    assert sum(part["left_out_as_too_long"] for part in statistics) == 30
    assert loaded.parts[0].targets.shape[1] == 7
    assert len(loaded.parts[2].targets) == loaded.statistics["test"]["sentences"]


def test_load_takes_vocabulary_and_tags_from_the_training_part_alone(config):
    config.data.min_count = 1
    everything = corpus.load(config.data)
    config.data.train_sentences = 2
    loaded = corpus.load(config.data)
    assert loaded.statistics["train"]["sentences"] == 2
    names = [w for w in loaded.vocabulary.words if w.startswith("nome")]
    assert len(names) <= 2 < len([w for w in everything.vocabulary.words if w.startswith("nome")])


def test_a_limit_that_leaves_nothing_says_so(config):
    config.data.max_length = 1
    with pytest.raises(InputError, match="has no train sentence of at most 1 words"):
        corpus.load(config.data)


def write(path, *texts):
    words = [[(form, "NOUN") for form in text.split()] for text in texts]
    path.write_text("".join(conllu(sentence, f"T_SENT{n}") for n, sentence in enumerate(words)))
    return str(path)


def test_load_takes_the_test_part_from_a_file_of_its_own(config, tmp_path):
    config.data.test_path = write(tmp_path / "test.conllu", "casa", "casa nova", "casa")
    loaded = corpus.load(config.data)
    assert loaded.parts[2].inputs[1].tolist() == [1, 2]
    assert loaded.statistics["test"]["documents"] == 2  # "T" alone cannot be divided
    # Validation is taken from the 20 documents of the other file, by the rule of that file.
    assert loaded.statistics["train"]["documents"] == 18
    assert loaded.statistics["validation"]["documents"] == 2
    assert loaded.documents_by == "sent_id prefix"


def test_an_empty_test_part_is_blamed_on_its_own_file(config, tmp_path):
    config.data.test_path = write(tmp_path / "test.conllu", "a " * 40)
    with pytest.raises(InputError, match=r"test\.conllu has no test sentence of at most 24 words"):
        corpus.load(config.data)


def test_the_description_tells_the_parts_and_what_was_left_out(config):
    config.data.max_length = 7
    text = corpus.describe(corpus.load(config.data))
    assert text.startswith("train ")
    assert "; test " in text
    assert "2 documents; 3 too long, left out). Documents were told apart by: sent_id" in text


def test_arrays_say_what_is_a_word(config):
    train = corpus.load(config.data).parts[0]
    words, lengths = train.inputs
    assert (train.counted.sum(1) == lengths).all()
    assert (train.counted == (words != 0)).all()
    assert (train.targets[~train.counted] == 0).all()
