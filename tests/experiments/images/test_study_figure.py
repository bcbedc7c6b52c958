import pytest

from configs.image_classification import get_config
from experiments.images import study_figure
from experiments.images.task import Classification

CONFIG = get_config()


def results(norm="batch", images=1000, gain=0.01):
    """Results of two seeds. Each rate gains as much as the others, but for one seed."""
    regularizers = {}
    for name in ("none", "Dropout", "Dropout before norm"):
        rates = CONFIG.own_rates[name] if name != "none" else (0.0,)
        runs = [
            {"rate": rate, "seed": seed, "diverged": False, "validation_score": 0.5}
            | {"test_score": 0.5 + (gain if rate else 0) + (0.001 * seed if rate == 0.3 else 0)}
            for rate in rates
            for seed in range(2)
        ]
        plain = None if name == "none" else "none"
        fields = {"compared_to": plain, "chosen_rate": rates[0], "seconds": 1.0, "runs": runs}
        regularizers[name] = fields
    return {
        "config": {"norm": norm},
        "data": {"train": images},
        "metric": Classification.metric._asdict(),
        "regularizers": regularizers,
    }


@pytest.fixture
def study():
    return {
        "many": results(images=4000, gain=0.02),
        "few": results(),
        "group": results(norm="group", gain=-0.01),
    }


def test_the_gains_of_batch_norm_by_the_number_of_images(study):
    left, _ = study_figure.draw(study).axes
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == ["Dropout", "Dropout before norm"]
    points = [bar.lines[0].get_xdata()[0] for bar in left.containers]
    assert points == pytest.approx([1, 1, 2, 2])
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == ["1,000 training images", "4,000 training images"]


def test_the_places_of_dropout_at_the_smallest_size(study):
    _, right = study_figure.draw(study).axes
    found = {bar.get_label(): bar.lines[0].get_ydata() for bar in right.containers}
    assert list(found) == [
        "batch norm, Dropout after the norm",
        "batch norm, Dropout before the norm",
        "group norm, Dropout after the norm",
        "group norm, Dropout before the norm",
    ]
    assert found["batch norm, Dropout before the norm"] == pytest.approx([1, 1.05, 1])
    assert found["group norm, Dropout after the norm"] == pytest.approx([-1, -0.95, -1])


def test_what_is_missing_or_diverged_is_left_out(study):
    del study["few"]["regularizers"]["Dropout"]
    study["group"]["regularizers"]["none"]["runs"][0]["test_score"] = None
    study["few"]["regularizers"]["Dropout before norm"]["runs"][-1]["test_score"] = None
    _, right = study_figure.draw(study).axes
    [bar] = right.containers
    assert bar.get_label() == "batch norm, Dropout before the norm"
    assert len(bar.lines[0].get_ydata()) == 2
