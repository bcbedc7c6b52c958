import itertools

import numpy as np
import pytest

from experiments import data, grid
from experiments.grid import Grid

from .conftest import make_config

RATES = (0.1, 0.2, 0.3)


@pytest.fixture(scope="module")
def corpus(corpus_path):
    return data.load(make_config(corpus_path).data)


def ignore(*_):
    pass


def train_and_watch(mode, corpus, corpus_path):
    """Trains a grid; returns the result, how often an epoch was traced, the progress shown."""
    config = make_config(corpus_path)
    config.update({"grid": mode, "rates": RATES, "epochs": 6, "patience": 1})
    config.learning_rate = 0.02
    traces, shares = [], []

    def counting(*args):
        epoch = make_epoch(*args)

        def traced(*args):
            traces.append(1)
            return epoch(*args)

        return traced

    make_epoch = grid.make_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "make_epoch", counting)
        result = Grid(config, corpus).train(
            "SpatialDropout1D", lambda share, *_: shares.append(share)
        )
    return result, len(traces), shares


@pytest.fixture(scope="module")
def vmapped(corpus, corpus_path):
    return train_and_watch("vmapped", corpus, corpus_path)


@pytest.fixture(scope="module")
def one_by_one(corpus, corpus_path):
    return train_and_watch("one_by_one", corpus, corpus_path)


@pytest.mark.parametrize("mode", ["vmapped", "one_by_one"])
def test_all_rates_and_seeds_are_traced_once(mode, request):
    result, traces, _ = request.getfixturevalue(mode)
    assert result["mode"] == mode
    assert traces == result["compiles"] == 1
    pairs = [(run["rate"], run["seed"]) for run in result["runs"]]
    assert pairs == list(itertools.product(RATES, range(2)))


def test_vmapped_equals_one_by_one(vmapped, one_by_one):
    assert vmapped[0]["chosen_rate"] == one_by_one[0]["chosen_rate"]
    for left, right in zip(vmapped[0]["runs"], one_by_one[0]["runs"], strict=True):
        assert left.keys() == right.keys()
        for field, value in left.items():
            if value is None:
                assert right[field] is None
            else:
                np.testing.assert_allclose(value, right[field], rtol=1e-3, err_msg=field)
    # Runs side by side stopped at different epochs, so freezing was at work.
    assert len({run["epochs"] for run in vmapped[0]["runs"]}) > 1


def test_each_run_keeps_its_own_best_epoch(vmapped):
    for run in vmapped[0]["runs"]:
        curve = run["validation_curve"]
        assert len(curve) == len(run["train_loss"]) == run["epochs"]
        assert run["validation_accuracy"] == max(curve)
        assert run["best_epoch"] == 1 + int(np.argmax(curve))


def test_rates_and_seeds_make_runs_differ(one_by_one):
    assert len({run["train_loss"][0] for run in one_by_one[0]["runs"]}) == 6


def test_only_runs_of_the_chosen_rate_are_tested(one_by_one):
    for run in one_by_one[0]["runs"]:
        chosen = run["rate"] == one_by_one[0]["chosen_rate"]
        assert (run["test_accuracy"] is not None) == chosen


@pytest.mark.parametrize("mode", ["vmapped", "one_by_one"])
def test_progress_grows(mode, request):
    shares = request.getfixturevalue(mode)[2]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


def test_auto_tries_both_modes_once_and_remembers(config, corpus):
    config.update({"grid": "auto", "epochs": 1})
    trained = Grid(config, corpus)
    first, second = (trained.train(name, ignore) for name in ("none", "Dropout"))
    assert trained.trials.keys() == {"vmapped", "one_by_one"}
    assert (first["compiles"], second["compiles"]) == (2, 1)
    assert first["mode"] == second["mode"] == trained.mode
    assert trained.mode in trained.trials
    # Without a regularizer there is no rate to choose.
    assert [(run["rate"], run["seed"]) for run in first["runs"]] == [(0.0, 0), (0.0, 1)]


def test_the_rate_is_chosen_on_validation_and_not_on_test():
    def fake(rate, validation, test):
        return {"rate": rate, "validation_accuracy": validation, "test_accuracy": test}

    runs = [fake(0.1, 0.8, 0.9), fake(0.1, 0.6, 0.9), fake(0.5, 0.74, 0.1), fake(0.5, 0.7, 0.1)]
    assert grid.choose_rate(runs) == 0.5
    assert grid.choose_rate([fake(0.5, 0.7, 0), fake(0.1, 0.7, 0)]) == 0.1


def test_seq2seq_trains(config, corpus):
    config.model = "seq2seq"
    losses = Grid(config, corpus).train("SpatialDropout1D", ignore)["runs"][0]["train_loss"]
    assert losses[-1] < losses[0]
