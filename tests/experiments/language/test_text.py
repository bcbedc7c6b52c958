import numpy as np
import pytest

from experiments.language import text
from experiments.treebank import conllu
from experiments.treebank.conllu import Sentence
from experiments.treebank.split import split


def sentence(words):
    return Sentence("d", tuple(words.split()), ("X",) * len(words.split()), words)


def test_a_sentence_a_line():
    assert text.join([sentence("a casa"), sentence("é")]) == "\na casa\né\n"


def test_rare_and_unseen_characters_are_one():
    numbers = text.vocabulary("aabbc", min_count=2)
    assert numbers == {"a": 1, "b": 2}
    assert text.encode("abcd", numbers).tolist() == [1, 2, text.UNKNOWN, text.UNKNOWN]


@pytest.mark.parametrize("length", [2, 9, 16, 17, 18, 33, 50])
def test_every_character_but_the_first_is_predicted_once_from_the_one_before(length):
    stream = np.arange(length)
    part = text.cut(stream, window=16, stride=16)
    assert part.targets[part.counted].tolist() == stream[1:].tolist()
    assert part.inputs[0][part.counted].tolist() == stream[:-1].tolist()
    assert part.counted.any(1).all()
    assert part.targets.shape == (-(-(length - 1) // 16), 16)


def test_windows_begin_a_stride_apart_and_leave_no_character_out():
    part = text.cut(np.arange(40), window=16, stride=6)
    assert part.inputs[0][:, 0].tolist() == [0, 6, 12, 18, 24]
    assert set(part.targets[part.counted].tolist()) == set(range(1, 40))
    [inputs] = part.inputs
    assert (part.targets == inputs + 1)[part.counted].all()


def parts_of(config):
    return split(conllu.read(config.path).sentences, [], config.split_seed)


def read_off(part, numbers):
    """Returns the targets that count, in order, as text."""
    characters = {number: character for character, number in numbers.items()}
    return "".join(characters.get(number, "?") for number in part.targets[part.counted].tolist())


def test_every_part_is_its_own_documents_to_the_letter(language_config):
    config = language_config.data
    config.min_count = 1
    data, parts = text.load(config), parts_of(config)
    numbers = text.vocabulary(text.join(parts["train"]), 1)
    lines = {}
    for name in parts:
        written = text.join(parts[name])[1:]
        read = read_off(getattr(data, name), numbers)
        assert len(read) == len(written) == data.record[name]["characters"]
        assert all(a in (b, "?") for a, b in zip(read, written, strict=True))
        lines[name] = set(written.splitlines())
    assert "?" not in read_off(data.train, numbers)
    assert lines["train"].isdisjoint(lines["validation"] | lines["test"])
    assert lines["validation"].isdisjoint(lines["test"])


def test_the_vocabulary_is_that_of_the_training_part_alone(language_config):
    config = language_config.data
    config.update({"min_count": 1, "train_sentences": 1})
    data, [first, *_] = text.load(config), parts_of(config)["train"]
    assert data.record["characters"] == 1 + len({*first.text, "\n"})
    assert data.record["train"]["share_unknown"] == 0
    unknown = data.test.targets[data.test.counted] == text.UNKNOWN
    assert data.record["test"]["share_unknown"] == pytest.approx(unknown.mean())
    assert unknown.any()


def test_limits_take_the_first_sentences(language_config):
    language_config.data.update({"train_sentences": 3, "validation_sentences": 2})
    record = text.load(language_config.data).record
    counts = [record[name]["sentences"] for name in ("train", "validation", "test")]
    assert counts == [3, 2, len(parts_of(language_config.data)["test"])]


def test_the_description_tells_the_parts(language_config):
    data = text.load(language_config.data)
    train = data.record["train"]
    assert data.description.startswith(
        f"train {train['characters']} characters ({train['sentences']} sentences, 16 documents; "
    )
    assert "told apart by: sent_id prefix" in data.description
