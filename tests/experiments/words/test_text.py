import numpy as np
import pytest

from experiments.errors import InputError
from experiments.words import text


def test_every_sentence_ends_and_the_first_word_follows_an_end():
    assert text.join([("a", "b"), ("c",)]) == ["<eos>", "a", "b", "<eos>", "c", "<eos>"]


def test_the_most_frequent_words_are_numbered_and_all_others_are_one():
    train = ["b", "b", "b", "a", "a", "c", "<unk>", "<unk>", "<unk>", "<unk>", "d"]
    numbers = text.vocabulary(train, 4)
    assert numbers == {"<unk>": 0, "b": 1, "a": 2, "c": 3}
    assert text.encode(["a", "d", "<unk>", "e", "b"], numbers).tolist() == [2, 0, 0, 0, 1]


@pytest.mark.parametrize("length", [2, 9, 16, 17, 18, 33, 50])
@pytest.mark.parametrize("context", [0, 5])
def test_every_word_but_the_first_is_predicted_once_from_the_one_before(length, context):
    stream = np.arange(length)
    part = text.cut(stream, 16, context)
    assert part.targets[part.counted].tolist() == stream[1:].tolist()
    assert part.inputs[0][part.counted].tolist() == stream[:-1].tolist()
    assert part.counted.any(1).all()


def test_every_counted_word_has_its_context():
    part = text.cut(np.arange(50), 16, 5)
    assert not part.counted[:, :5].any()
    [inputs] = part.inputs
    assert inputs[0, :7].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert inputs[1].tolist() == list(range(6, 22))  # the second begins 11 later than the first
    assert part.counted[1].tolist() == [False] * 5 + [True] * 11


def test_limits_are_in_words_and_the_record_counts_them(words_config):
    words_config.data.update({"train_words": 70, "validation_words": 30, "vocabulary": 4})
    data = text.load(words_config.data)
    counts = {name: data.record[name]["words"] for name in ("train", "validation", "test")}
    assert counts == {"train": 70, "validation": 30, "test": 15 * 7}
    for name, words in counts.items():
        part = getattr(data, name)
        assert part.counted.sum() == words
        unknown = (part.targets[part.counted] == 0).mean()
        assert data.record[name]["share_unknown"] == pytest.approx(unknown)
        assert part.targets.max() == 3
    assert data.record["vocabulary"] == 4
    assert 0 < data.record["train"]["share_unknown"] < 1


def test_the_baseline_is_a_3_gram(words_config):
    assert len(text.load(words_config.data).record["ngram_weights"]) == 4
    # A word tells the next one within a sentence, but not at its end.
    assert 1 < text.load(words_config.data).baseline < 2.5


def test_a_part_without_words(words_config, monkeypatch):
    monkeypatch.setattr(
        text.corpora, "read", lambda *_: {"train": [("a",)], "validation": [], "test": []}
    )
    with pytest.raises(InputError) as caught:
        text.load(words_config.data)
    assert str(caught.value) == "the validation part must have at least one word: got none"
