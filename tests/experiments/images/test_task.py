import jax.numpy as jnp
import numpy as np
import pytest

from configs.image_classification import get_config
from experiments.errors import InputError
from experiments.images.models import FORMS
from experiments.images.task import Classification


@pytest.fixture
def config():
    return get_config("smoke")


def test_regularizers_may_have_rates_and_a_schedule_of_their_own(config):
    config.rates = (0.2, 0.4)
    task = Classification(config)
    names = ("none", "DropBlock", "Dropout", "cutout")
    rates = {name: task.rates(config, name) for name in names}
    assert rates == {"none": (0.0,), "DropBlock": (0.2, 0.4), "Dropout": (0.1,), "cutout": (0.5, 1)}
    assert task.rate_schedule("DropBlock").name == "constant"
    growing = task.rate_schedule("DropBlock growing")
    assert (growing.name, growing.steps) == ("linear", 4)  # two epochs of 100 images, 50 a batch
    assert (growing.start, growing.end) == (0.0, 1.0)
    assert task.network("DropPath subset").subset_rate == 0.2
    assert task.network("DropPath row").subset_rate == 0.0
    config.update({"rates": (0.2,), "seeds": 3, "regularizers": names})
    assert task.most_runs(config) == 6  # of cutout


def test_the_score_is_the_accuracy():
    scores = jnp.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    points = Classification.points(scores, np.array([1, 1, 1]))
    assert points.tolist() == [1, 0, 1]
    assert Classification.score(points.mean()) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "layer"}, "config.norm must be one of batch, group: got 'layer'"),
        (
            {"widths": (16, 0)},
            "config.widths must be a tuple of whole numbers, of at least 1: got (16, 0)",
        ),
        (
            {"widths": (12, 16), "norm": "group"},
            "config.widths must be a tuple of whole numbers, multiples of 8, for group norm: "
            "got (12, 16)",
        ),
        ({"blocks": 0}, "config.blocks must be at least 1: got 0"),
        (
            {"data": {"source": "cifar"}},
            "config.data.source must be one of fashion-mnist, mnist, digits: got 'cifar'",
        ),
        (
            {"data": {"path": "here"}},
            "config.data.path is the folder of Fashion-MNIST's files, so config.data.source must "
            "be fashion-mnist: got digits",
        ),
        (
            {"own_rates": {"DropPath subset": (0.1, 0.2)}},
            "config.own_rates['DropPath subset'] must have one rate, because it is a part of the "
            "program: got (0.1, 0.2)",
        ),
        (
            {"own_rates": {"DropPath": (0.1,)}},
            f"each name in config.own_rates must be one of {', '.join(FORMS)}: got 'DropPath'",
        ),
        (
            {"own_rates": {"cutout": (0.1, 2)}},
            "each of config.own_rates['cutout'] must be a number in [0, 1]: got 2",
        ),
        (
            {"own_rates": {"cutout": ()}},
            "config.own_rates['cutout'] must be a tuple of rates: got ()",
        ),
    ],
)
def test_a_wrong_field_gets_one_sentence(config, fields, message):
    with config.unlocked(), config.ignore_type():
        config.update(fields)
    with pytest.raises(InputError) as caught:
        Classification.check(config)
    assert str(caught.value) == message
