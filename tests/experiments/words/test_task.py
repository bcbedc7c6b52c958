import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import settings
from experiments.errors import InputError
from experiments.grid import Grid
from experiments.tasks import TASKS

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def task(words_config):
    return TASKS[words_config.task](words_config)


@pytest.mark.parametrize("words_config", ["transformer"], indirect=True)
def test_a_regularizer_learns_that_a_word_tells_the_next(task, tmp_path):
    name = task.config.regularizers[-1]
    result = Grid(task, tmp_path).train(name, [], lambda *_: None)
    assert result["compared_to"] == "none"
    assert len(result["runs"]) == 4
    for run in result["runs"]:
        assert run["validation_curve"][-1] < run["validation_curve"][0] < 2 * 10


@pytest.mark.parametrize("words_config", ["lstm"], indirect=True)
def test_monte_carlo_is_the_perplexity_of_the_mean_probability(task, monkeypatch):
    monkeypatch.setattr("experiments.words.task.PASSES", 3)
    monkeypatch.setattr("experiments.words.task.WINDOWS_AT_ONCE", 4)
    test, size = task.data.test, task.data.record["vocabulary"]
    assert len(test.targets) % 4

    def predict(inputs, *, key=None):
        """Returns scores that depend on the words, and on the key if there is one."""
        [words] = inputs
        noise = 0.0 if key is None else jax.random.normal(key, (1, 1, size))
        return jnp.sin(words[..., None] * jnp.arange(size)[None, None]) + noise

    found = jax.jit(lambda seed: task.measure(predict, 0.5, jax.random.key(seed)))(7)
    keys = jax.random.split(jax.random.key(7), (-(-len(test.targets) // 4), 3))
    keys = np.asarray(jax.random.key_data(keys))  # used for every window of a batch
    own = []
    for index, targets in enumerate(test.targets):
        inputs = tuple(array[index : index + 1] for array in test.inputs)
        scores = jnp.stack(
            [predict(inputs, key=one)[0] for one in map(jax.random.wrap_key_data, keys[index // 4])]
        )
        mean = np.asarray(jax.nn.softmax(scores), np.float64).mean(0)
        own.append(mean[np.arange(len(targets)), targets])
    expected = np.exp(-np.log(own)[test.counted].mean())
    assert float(found["monte_carlo"]) == pytest.approx(expected, rel=1e-5)
    losses = task.losses(predict(test.inputs), test.targets)
    one_pass = np.exp(np.asarray(losses, np.float64)[test.counted].mean())
    assert float(found["monte_carlo_gain"]) == pytest.approx(expected - one_pass, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("layers=0", "config.layers must be at least 1: got 0"),
        ("heads=5", "config.features must be an even multiple of config.heads: got 96 and 5"),
        ("data.vocabulary=1", "config.data.vocabulary must be at least 2: got 1"),
        ("data.train_words=-1", "config.data.train_words must be at least 0: got -1"),
        (
            "data.context=32",
            "config.data.context must be below config.data.window, to leave words to predict: "
            "got 32 and 32",
        ),
        (
            "data.source=ptb",
            "config.data.source must be one of porttinari, king_james: got 'ptb'",
        ),
        (
            "regularizers=('Dropout',)",
            "each of config.regularizers must be one of none, embedding, attention, residual, "
            "layer, all: got 'Dropout'",
        ),
    ],
)
def test_bad_fields_get_one_sentence(wrong, message):
    config = "--config=configs/word_language_model.py:transformer"
    with pytest.raises(InputError) as caught:
        settings.parse(["main", config, f"--config.{wrong}"])
    assert str(caught.value) == message
