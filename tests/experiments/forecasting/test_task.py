import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import settings
from experiments.errors import InputError
from experiments.forecasting.task import Forecasting
from experiments.forecasting.windows import rmse
from experiments.grid import Grid
from experiments.statistics import chosen
from experiments.task import batches
from experiments.train import evaluate, make_init, make_validate, predict

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def task(forecast_config):
    return Forecasting(forecast_config)


def test_the_score_is_the_error_of_the_forecasts_in_degrees(task):
    start = make_init(task, "before", optax.adam(1e-3))(0)[0]
    # With these parameters, also the empty windows that fill up the last batch have outputs.
    variables = jax.tree.map(lambda leaf: leaf + 0.1, start.variables)
    rate, model, test = jnp.float32(0.5), task.network("before"), task.data.test
    score = evaluate(variables, task, model, batches(test, 7), rate)
    expected = rmse(np.asarray(predict(variables, model, test.inputs, rate)), test.targets)
    assert float(score) == pytest.approx(expected, rel=1e-5)
    assert len(test.targets) % 7


def test_zoneout_is_evaluated_with_its_rate(task):
    """In evaluation, zoneout mixes old and new values by the rate, unlike the plain network."""
    start = make_init(task, "zoneout", optax.adam(1e-3))(0)[0]
    zoneout, cut = task.network("zoneout"), batches(task.data.validation, 16)

    def score_of(variables, rate, cut, model=zoneout):
        return evaluate(variables, task, model, cut, rate)

    def score(model, rate):
        return score_of(start.variables, jnp.float32(rate), cut, model)

    assert score(zoneout, 0.0) == pytest.approx(float(score(task.network("none"), 0.5)), rel=1e-5)
    assert abs(score(zoneout, 0.0) - score(zoneout, 0.9)) > 1e-3
    # The validation of a run does so, too.
    _, best = make_init(task, "zoneout", optax.sgd(0.0))(0)
    validate = make_validate(task, score_of)
    _, validated = validate(start.variables, best, jnp.float32(0.9), 1, cut)
    assert validated == pytest.approx(float(score(zoneout, 0.9)), rel=1e-5)


def test_networks_that_are_compared_start_alike_and_train_with_each_rate(task, tmp_path):
    grid = Grid(task, tmp_path)
    names = ("none", "both", "CNN channels")
    results = {name: grid.train(name, [], lambda *_: None) for name in names}
    assert [r["compared_to"] for r in results.values()] == [None, "none", "CNN none"]
    assert [len(r["runs"]) for r in results.values()] == [2, 4, 4]
    for result in results.values():
        for run in result["runs"]:
            assert run["validation_score"] == min(run["validation_curve"])
            assert run["best_epoch"] == 1 + int(np.argmin(run["validation_curve"]))
        by_rate = {}
        for run in result["runs"]:
            by_rate.setdefault(run["rate"], []).append(run["validation_score"])
        assert result["chosen_rate"] == min(by_rate, key=lambda rate: np.mean(by_rate[rate]))


def test_what_is_shown_are_the_forecasts_at_the_chosen_rate(task, tmp_path):
    result = Grid(task, tmp_path).train("after", [], lambda *_: None)
    for run in result["runs"]:
        assert ("shown" in run["measures"]) == (run["rate"] == result["chosen_rate"])
    # The figure shows all windows of this test part, so their error is the test score of the run.
    for shown, score in zip(
        chosen(result, "measures", "shown"), chosen(result, "test_score"), strict=True
    ):
        assert rmse(np.array(shown), task.data.test.targets) == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("data.hours=0", "config.data.hours must be at least 1: got 0"),
        ("data.max_fill=-1", "config.data.max_fill must be at least 0: got -1"),
        ("data.train_share=1.5", "config.data.train_share must be a number in [0, 1]: got 1.5"),
        (
            "data.validation_share=0.3",
            "config.data.train_share and validation_share must sum to less than 1, to leave a "
            "test part: got 0.7 and 0.3",
        ),
        ("hidden=0", "config.hidden must be at least 1: got 0"),
        (
            "regularizers=('Dropout',)",
            "each of config.regularizers must be one of none, before, after, both, input mask, "
            "recurrent mask, zoneout, CNN none, CNN channels: got 'Dropout'",
        ),
    ],
)
def test_bad_fields_get_one_sentence(wrong, message):
    with pytest.raises(InputError) as caught:
        settings.parse(["main", "--config=configs/weather_forecast.py", f"--config.{wrong}"])
    assert str(caught.value) == message
