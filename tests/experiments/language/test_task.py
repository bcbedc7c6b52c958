import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import settings
from experiments.errors import InputError
from experiments.grid import Grid
from experiments.language.task import Language
from experiments.task import batches
from experiments.train import evaluate, make_init, predict

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def task(language_config):
    return Language(language_config)


def test_the_score_is_the_perplexity_of_every_character_of_the_test_part(task):
    start = jax.jit(make_init(task, "keys", optax.adam(1e-3)))(0)[0]
    rate, model, test = jnp.float32(0.5), task.network("keys"), task.data.test
    score = evaluate(start.variables, task, model, batches(test, 7), rate)
    logits = jax.jit(predict, static_argnums=1)(start.variables, model, test.inputs, rate)
    logits = np.asarray(logits, np.float64)
    own = np.take_along_axis(logits, test.targets[..., None], 2)[..., 0]
    bits = np.log2(np.exp(logits).sum(2)) - own / np.log(2)
    assert float(score) == pytest.approx(2 ** bits[test.counted].mean(), rel=1e-4)
    assert len(test.targets) % 7
    assert not test.counted.all()


def test_a_guess_at_random_has_as_much_perplexity_as_there_are_characters(task):
    logits = jnp.zeros((4, 5, task.data.record["characters"]))
    points = task.points(logits, jnp.zeros((4, 5), int))
    assert task.score(points.mean()) == pytest.approx(task.data.record["characters"], rel=1e-5)


def test_a_form_trains_with_each_rate_and_validation_chooses(task, tmp_path):
    result, again = (
        Grid(task, tmp_path / folder).train("keys", [], lambda *_: None) for folder in "ab"
    )
    assert result["compared_to"] == "none"
    assert len(result["runs"]) == 4
    by_rate = {}
    for run in result["runs"]:
        assert run["validation_score"] == min(run["validation_curve"])
        assert run["validation_curve"][-1] < task.data.record["characters"]  # better than guessing
        by_rate.setdefault(run["rate"], []).append(run["validation_score"])
    assert result["chosen_rate"] == min(by_rate, key=lambda rate: np.mean(by_rate[rate]))
    # Shuffling and dropout depend only on the seed.
    losses = [run["train_loss"] for run in result["runs"]]
    assert losses == [run["train_loss"] for run in again["runs"]]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("data.window=0", "config.data.window must be at least 1: got 0"),
        ("data.test_sentences=-1", "config.data.test_sentences must be at least 0: got -1"),
        (
            "data.train_stride=65",
            "config.data.train_stride must be at most the window, to use all characters: "
            "got 65 and 64",
        ),
        ("layers=0", "config.layers must be at least 1: got 0"),
        (
            "heads=3",
            "config.features must be an even multiple of config.heads: got 64 and 3",
        ),
        ("attention=fast", "config.attention must be one of blockwise, fused, flax: got 'fast'"),
        (
            "attention=flax",
            "config.attention=flax needs config.regularizers=('none',), because Flax's own "
            "attention takes no traced rate: got none, weights, heads, keys, spans",
        ),
        (
            "regularizers=('Dropout',)",
            "each of config.regularizers must be one of none, weights, heads, keys, spans: "
            "got 'Dropout'",
        ),
    ],
)
def test_bad_fields_get_one_sentence(wrong, message):
    with pytest.raises(InputError) as caught:
        settings.parse(["main", "--config=configs/language_model.py", f"--config.{wrong}"])
    assert str(caught.value) == message


def test_flax_trains_the_plain_network():
    args = ("attention=flax", "regularizers=('none',)")
    given = [f"--config.{arg}" for arg in args]
    config, _ = settings.parse(["main", "--config=configs/language_model.py", *given])
    assert config.attention == "flax"
