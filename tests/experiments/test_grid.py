import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from flax import linen as nn

from experiments import grid, runs
from experiments.grid import Grid
from experiments.runs import Finished, Run
from experiments.tagging.task import Tagging
from experiments.train import Metrics
from flax_spatialdrop import linen

from .conftest import make_config

RATES = (0.1, 0.2, 0.3)


class SmallTagger(nn.Module):
    """Embedding, dropout and Dense. A grid takes any network, and this one compiles fast."""

    words: int
    tags: int
    regularizer: str

    @nn.compact
    def __call__(self, words, lengths, rate, *, deterministic):
        x = nn.Embed(self.words, 8)(words)
        if self.regularizer != "none":
            x = linen.SpatialDropout1D(rate, deterministic=deterministic)(x)
        return nn.Dense(self.tags)(x)


class Small(Tagging):
    def network(self, regularizer):
        return SmallTagger(self.data.record["words"], self.data.record["tags"], regularizer)


def ignore(*_):
    pass


def train_and_watch(mode, corpus_path):
    """Trains a grid; returns the result, the number of traces of an epoch, and the progress shown.

    The learning rate is high, so runs stop after few epochs, and not all after the same number.
    """
    config = make_config(corpus_path)
    config.update({"grid_mode": mode, "rates": RATES, "epochs": 12, "patience": 1})
    config.optimizer.learning_rate = 0.02
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
        trained = Grid(Small(config))
        result = trained.train("SpatialDropout1D", lambda share, *_: shares.append(share))
    assert (trained.mode, trained.trials) == (mode, {})  # no mode is tried
    return result, len(traces), shares


@pytest.fixture(scope="module")
def vmapped(corpus_path):
    return train_and_watch("vmapped", corpus_path)


@pytest.fixture(scope="module")
def one_by_one(corpus_path):
    return train_and_watch("one_by_one", corpus_path)


@pytest.mark.parametrize("mode", ["vmapped", "one_by_one"])
def test_all_rates_and_seeds_are_traced_once(mode, request):
    result, traces, _ = request.getfixturevalue(mode)
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
    # Runs of one program stopped at different epochs, so some were frozen.
    assert len({run["epochs"] for run in vmapped[0]["runs"]}) > 1


def test_each_run_keeps_its_own_best_epoch(vmapped):
    for run in vmapped[0]["runs"]:
        curve = run["validation_curve"]
        assert len(curve) == len(run["train_loss"]) == run["epochs"]
        assert run["validation_score"] == max(curve)
        assert run["best_epoch"] == 1 + int(np.argmax(curve))


def test_rates_and_seeds_make_runs_differ(one_by_one):
    assert len({run["train_loss"][0] for run in one_by_one[0]["runs"]}) == 6


def test_only_runs_of_the_chosen_rate_are_tested(one_by_one):
    for run in one_by_one[0]["runs"]:
        chosen = run["rate"] == one_by_one[0]["chosen_rate"]
        assert (run["test_score"] is not None) == chosen


@pytest.mark.parametrize("mode", ["vmapped", "one_by_one"])
def test_progress_grows(mode, request):
    shares = request.getfixturevalue(mode)[2]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


def test_runs_side_by_side_stop_when_the_last_is_out_of_patience(vmapped):
    result, _, shares = vmapped
    last = max(run["epochs"] for run in result["runs"])
    assert last < 12
    assert shares == pytest.approx([epoch / 12 for epoch in range(1, last + 1)])


def test_auto_tries_both_modes_once_on_a_whole_grid_and_remembers(config):
    regularizers = ("none", "Dropout", "SpatialDropout1D")
    config.update({"grid_mode": "auto", "epochs": 1, "regularizers": regularizers})
    trained = Grid(Small(config))
    assert trained.mode is None
    results = {name: trained.train(name, ignore) for name in config.regularizers}
    lanes = {mode: trial["lanes"] for mode, trial in trained.trials.items()}
    assert lanes == {"vmapped": 4, "one_by_one": 1}  # 2 rates x 2 seeds
    assert {trial["regularizer"] for trial in trained.trials.values()} == {"Dropout"}
    assert [result["compiles"] for result in results.values()] == [1, 2, 1]
    assert all(trial["seconds_per_step"] > 0 for trial in trained.trials.values())
    # The program of the trial also trained.
    tried = trained.trials[trained.mode]["compile_seconds"]
    assert results["Dropout"]["compile_seconds"] == tried
    # Without a regularizer there is no rate to choose.
    assert [(run["rate"], run["seed"]) for run in results["none"]["runs"]] == [(0.0, 0), (0.0, 1)]


@pytest.mark.parametrize(("vmapped", "mode"), [(0.4, "vmapped"), (0.6, "one_by_one")])
def test_auto_takes_vmapped_only_if_it_makes_up_for_waiting(config, monkeypatch, vmapped, mode):
    programs = {"vmapped": SimpleNamespace(lanes=4), "one_by_one": SimpleNamespace(lanes=1)}
    seconds = {4: vmapped, 1: 1.0}
    for program in programs.values():
        program.compile_seconds = 0.0
    monkeypatch.setattr(Grid, "_program", lambda self, name, mode: programs[mode])
    monkeypatch.setattr(Grid, "_time_step", lambda self, program, runs: seconds[program.lanes])
    config.grid_mode = "auto"
    assert Grid(Small(config))._faster_mode() == mode


def test_auto_tries_none_where_there_is_nothing_else(config):
    config.update({"grid_mode": "auto", "epochs": 1, "regularizers": ("none",)})
    trained = Grid(Small(config))
    assert trained.train("none", ignore)["compiles"] == 2
    assert trained.trials["vmapped"]["lanes"] == 2


def test_the_rate_with_the_best_mean_is_chosen_and_the_lower_of_equals():
    def fake(rate, validation):
        return Finished(Run(rate, 0), SimpleNamespace(best_score=validation), None)

    finished = [fake(0.1, 0.8), fake(0.1, 0.6), fake(0.5, 0.74), fake(0.5, 0.7)]
    assert runs.choose_rate(finished, True) == 0.5
    assert runs.choose_rate(finished, False) == 0.1
    assert runs.choose_rate([fake(0.5, 0.7), fake(0.1, 0.7)], True) == 0.1


def test_seq2seq_trains(config):
    config.model = "seq2seq"
    losses = Grid(Tagging(config)).train("SpatialDropout1D", ignore)["runs"][0]["train_loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("diverged", "chosen"), [([], 0.1), ([0.1], 0.5), ([0.1, 0.5], None)])
def test_a_rate_at_which_a_run_diverged_is_not_chosen(monkeypatch, diverged, chosen):
    def finished(rate, seed, score):
        nan = np.nan if rate in diverged and seed == 1 else 0.5
        history = Metrics(np.array([0.7, nan]), np.array([score, score]))
        state = SimpleNamespace(best_score=score, best_epoch=1, epoch=2, best_params=None)
        return Finished(Run(rate, seed), state, history)

    trained = Grid.__new__(Grid)
    trained.__dict__.update(task=Tagging, mode="vmapped", check=ignore, _programs={}, _steps=1)
    program = SimpleNamespace(compile_seconds=0.0)
    all_runs = [finished(rate, seed, 1 - rate) for rate in (0.1, 0.5) for seed in range(2)]
    methods = {"_runs": None, "_program": program, "_train_all": all_runs}
    methods["_test_program"] = lambda params, rate: (np.float32(0.25), None)
    for name, value in methods.items():
        monkeypatch.setattr(Grid, name, lambda *_, value=value: value)
    result = trained.train("SpatialDropout1D", ignore)
    assert result["chosen_rate"] == chosen
    for run in result["runs"]:
        lost = run["rate"] in diverged and run["seed"] == 1
        assert run["diverged"] == lost
        assert (run["validation_score"] is None) == lost
        assert run["train_loss"] == [0.7, None if lost else 0.5]
        assert run["test_score"] == (0.25 if run["rate"] == chosen else None)


def test_a_test_score_that_is_no_number_is_none():
    history = Metrics(np.array([0.7]), np.array([0.8]))
    one = Finished(Run(0.1, 0), SimpleNamespace(best_score=0.8, best_epoch=1, epoch=1), history)
    kept = runs.record(one, (np.float32(np.inf), None))
    assert (kept["test_score"], kept["diverged"]) == (None, True)
