import pytest

from configs import rate_schedules
from experiments import rate_schedule, settings
from experiments.errors import InputError
from experiments.images.models import FORMS
from experiments.schedules.task import ScheduledImages, ScheduledWords
from experiments.words.transformer import PLACES

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def without_data(task, config):
    """Returns a task that has no data, which schedules and the names of networks do not need."""
    made = object.__new__(task)
    made.config = config
    return made


def test_each_schedule_acts_in_the_first_half():
    config = rate_schedules.get_config("words")
    config.rate_schedule.steps = 100
    task = without_data(ScheduledWords, config)
    steps = (0, 50, 99, 100, 200)
    scales = {
        name: [float(rate_schedule.scheduled(task.rate_schedule(name), 1.0, s)) for s in steps]
        for name in task.regularizers
        if name != "none"
    }
    assert scales == {
        "constant": [1, 1, 1, 1, 1],
        "early": pytest.approx([1, 0.5, 0.01, 0, 0]),
        "late": [0, 0, 0, 1, 1],
        "growing": pytest.approx([0, 0.5, 0.99, 1, 1]),
    }
    assert config.rate_schedule.name == "constant"  # the config itself stays


@pytest.mark.parametrize(
    ("task", "variant", "places", "table"),
    [(ScheduledWords, "words", "places", PLACES), (ScheduledImages, "images", "form", FORMS)],
)
def test_all_schedules_are_about_one_regularizer(task, variant, places, table):
    config = rate_schedules.get_config(variant)
    made = without_data(task, config)
    made.data = type("Data", (), {"record": {"vocabulary": 10, "classes": "ab"}})
    for name in task.regularizers:
        expected = table["none" if name == "none" else config.regularizer]
        assert getattr(made.network(name), places) == expected
    assert task.plain("early") == "none"
    assert {*task.choices} <= {*table}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            "regularizer=none",
            "config.regularizer must be one of embedding, attention, residual, layer, all: "
            "got 'none'",
        ),
        ("layers=0", "config.layers must be at least 1: got 0"),
    ],
)
def test_bad_fields_get_one_sentence(wrong, message):
    with pytest.raises(InputError) as caught:
        settings.parse(["main", "--config=configs/rate_schedules.py", f"--config.{wrong}"])
    assert str(caught.value) == message


def test_a_schedule_acts_in_the_first_half_of_each_training():
    config = rate_schedules.get_config("words")
    for condition in config.conditions.values():
        windows = condition.data.train_words // config.data.window
        steps = condition.epochs * (windows // config.batch_size)
        assert condition.rate_schedule.steps == steps // 2
        assert condition.patience == condition.epochs  # no early stopping
