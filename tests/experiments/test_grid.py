import contextlib
import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import grid as grids
from experiments import metrics, programs, rate_schedule, runs
from experiments.checkpoints import Checkpoints
from experiments.errors import InputError
from experiments.grid import Grid
from experiments.runs import Progress, Run
from experiments.tagging.task import Tagging
from experiments.task import Parts

from .conftest import make_config
from .small import Normed, Small, SmallTagger

RATES = (0.1, 0.2, 0.3)


def ignore(*_):
    pass


def small_config(corpus_path, **fields):
    """The learning rate is high, so runs stop after few epochs, and not all after the same."""
    config = make_config(corpus_path)
    config.update({"rates": RATES, "epochs": 12, "patience": 1, **fields})
    config.optimizer.learning_rate = 0.02
    return config


@pytest.fixture(scope="module")
def trained(corpus_path, tmp_path_factory):
    """A result, the number of traces of a step, the progress shown, and how often it was saved.

    The last value is the folder of the metrics and of a trace.
    """
    traces, shares, saves = [], [], []

    def counting(*args):
        step = make_step(*args)

        def traced(*args):
            traces.append(1)
            return step(*args)

        return traced

    make_step = programs.make_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "make_step", counting)
        task = Small(small_config(corpus_path))
        folder = tmp_path_factory.mktemp("grid")
        folders = {"metrics": folder / "metrics", "profile": folder / "profile"}
        grid = Grid(task, folder / "checkpoints", **folders, save=lambda: saves.append(1))
        result = grid.train("SpatialDropout1D", [], lambda share, *_: shares.append(share))
    return result, len(traces), shares, len(saves), folder


def test_all_rates_and_seeds_are_traced_once(trained):
    result, traces, _, saves, _ = trained
    assert traces == 1
    assert saves == 1 + 6  # before the training, and after each run
    pairs = [(run["rate"], run["seed"]) for run in result["runs"]]
    assert pairs == list(itertools.product(RATES, range(2)))


def test_each_run_keeps_its_own_best_epoch(trained):
    for run in trained[0]["runs"]:
        curve = run["validation_curve"]
        assert len(curve) == len(run["train_loss"]) == run["epochs"]
        assert run["validation_score"] == max(curve)
        assert run["best_epoch"] == 1 + int(np.argmax(curve))
    assert len({run["epochs"] for run in trained[0]["runs"]}) > 1


def test_rates_and_seeds_make_runs_differ(trained):
    assert len({run["train_loss"][0] for run in trained[0]["runs"]}) == 6


def test_every_run_is_tested(trained):
    for run in trained[0]["runs"]:
        assert 0 < run["test_score"] <= 1
        assert run["seconds"] > 0


def test_progress_grows(trained):
    shares = trained[2]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


def test_every_call_of_every_run_has_a_row_of_metrics(trained):
    """A call is an epoch here, of 6 steps of 8 sentences."""
    for run in trained[0]["runs"]:
        folder = trained[4] / "metrics" / f"SpatialDropout1D-{run['rate']}-{run['seed']}"
        rows = metrics.read(folder)
        assert [row["step"] for row in rows] == [6 * row["epoch"] for row in rows]
        assert [row["validation_score"] for row in rows] == run["validation_curve"]
        assert [row["epoch_loss"] for row in rows] == run["train_loss"]
        for row in rows:
            assert row["loss"] == pytest.approx(row["epoch_loss"])
            assert row["examples_per_second"] == pytest.approx(8 * row["steps_per_second"])
            assert row["tokens_per_second"] > row["examples_per_second"]
            assert row["process_peak_bytes"] > 1e7
            assert row["gradient_norm"] > 0
            assert row["dropout_rate"] == pytest.approx(run["rate"])
            assert row["learning_rate"] == 0.02
            assert not row["diverged"]


def test_a_trace_is_of_one_call(trained):
    assert len(list((trained[4] / "profile").rglob("*.xplane.pb"))) == 1


def test_a_resumed_run_says_where_it_goes_on_and_adds_the_time_to_compile(
    corpus_path, tmp_path, monkeypatch, capsys
):
    config, checks, clock = small_config(corpus_path, rates=(0.5,), seeds=1, epochs=2), [], [0.0]
    compile_programs = programs.Builder.compile

    def compile_for_10_seconds(*args):
        clock[0] += 10
        return compile_programs(*args)

    def stop(work):
        checks.append(work)
        if len(checks) == 3:  # the first is for compiling
            raise KeyboardInterrupt

    monkeypatch.setattr(programs.Builder, "compile", compile_for_10_seconds)
    monkeypatch.setattr(grids, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    config.update({"steps_per_call": 4, "checkpoint_every": 4})
    with pytest.raises(KeyboardInterrupt):
        Grid(Small(config), tmp_path, check=stop).train("SpatialDropout1D", [], ignore)
    sentence = "A checkpoint of SpatialDropout1D (rate 0.5, seed 0) is saved at step 4.\n"
    assert capsys.readouterr().err == sentence
    result = Grid(Small(config), tmp_path, resume=True).train("SpatialDropout1D", [], ignore)
    sentence = (
        "SpatialDropout1D (rate 0.5, seed 0) goes on after step 4, with 0 of 2 epochs done.\n"
    )
    assert capsys.readouterr().err == sentence
    assert result["compile_seconds"] == 20


def test_a_run_without_a_checkpoint_says_that_it_starts_again(corpus_path, tmp_path, capsys):
    config = small_config(corpus_path, rates=(0.5,), seeds=1)
    config.checkpoint_every = 0
    folders, name = {"folder": tmp_path, "metrics": tmp_path / "metrics"}, "none (rate 0, seed 0)"

    def stop(work):
        if work != "compiling":
            raise KeyboardInterrupt

    for resume, said in ((False, ""), (True, f"{name} has no checkpoint and starts again.\n")):
        with pytest.raises(KeyboardInterrupt):
            Grid(Small(config), **folders, resume=resume, check=stop).train("none", [], ignore)
        stopped = f"{name} has no checkpoint: --resume starts it again.\n"
        assert capsys.readouterr().err == said + stopped


def test_a_resumed_run_has_a_row_for_every_call(corpus_path, tmp_path):
    """The run is stopped after 2 of 6 calls, in the first of two epochs.

    A row that is newer than the checkpoint is written again.
    """
    config, checks = small_config(corpus_path, epochs=2, patience=2, rates=(0.5,), seeds=1), []
    config.update({"steps_per_call": 2, "checkpoint_every": 2})

    def stop(work):
        checks.append(work)
        if len(checks) == 4:  # the first is for compiling
            raise KeyboardInterrupt

    folders = {"folder": tmp_path, "metrics": tmp_path / "metrics"}
    with pytest.raises(KeyboardInterrupt):
        Grid(Small(config), **folders, check=stop).train("SpatialDropout1D", [], ignore)
    folder = tmp_path / "metrics" / "SpatialDropout1D-0.5-0"
    assert [row["step"] for row in metrics.read(folder)] == [2, 4]
    with metrics.Writer(folder, 4) as writer:
        writer.write(6, {"loss": 7.0})
    Grid(Small(config), **folders, resume=True).train("SpatialDropout1D", [], ignore)
    rows = metrics.read(folder)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert [row.get("epoch") for row in rows] == [None, None, 1, None, None, 2]
    assert rows[2]["loss"] != 7.0


def test_a_run_that_diverged_stays_diverged_when_it_is_resumed(corpus_path, tmp_path):
    """It is stopped after its first steps, whose loss is no number any more."""
    config, checks = small_config(corpus_path, epochs=3, patience=2, rates=(0.5,), seeds=1), []
    config.update({"steps_per_call": 4, "checkpoint_every": 4})
    config.optimizer.learning_rate = 1e30

    def stop(work):
        checks.append(work)
        if len(checks) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Grid(Small(config), tmp_path, check=stop).train("SpatialDropout1D", [], ignore)
    assert [path.name for path in (tmp_path / "SpatialDropout1D-0.5-0").iterdir()] == ["4"]
    grid = Grid(Small(config), tmp_path, resume=True)
    result = grid.train("SpatialDropout1D", [], ignore)
    assert result["chosen_rate"] is None
    [run] = result["runs"]
    assert (run["diverged"], run["epochs"], run["test_score"]) == (True, 1, None)
    assert run["train_loss"] == run["validation_curve"] == [None]
    again = grid.train("SpatialDropout1D", [dict(run)], ignore)
    assert (again["chosen_rate"], again["runs"]) == (None, [run])


def test_batch_statistics_go_on_after_a_break(corpus_path, tmp_path):
    """The run is stopped in the second of three epochs. Its checkpoints end with the same bits."""
    config = small_config(corpus_path, epochs=3, patience=3, rates=(0.5,), seeds=1)
    config.update({"steps_per_call": 4, "checkpoint_every": 4})
    task, calls, ends = Normed(config), iter(range(10)), []

    def stop(work):
        if next(calls) == 4:  # the first is for compiling
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Grid(task, tmp_path / "broken", check=stop).train("SpatialDropout1D", [], ignore)
    builder, run = programs.Builder(task), Run(0.5, 0)
    start = builder.start("SpatialDropout1D", [run])
    for name in ("broken", "whole"):
        Grid(task, tmp_path / name, resume=True).train("SpatialDropout1D", [], ignore)
        with contextlib.closing(Checkpoints(tmp_path / name / "SpatialDropout1D-0.5-0", 1)) as kept:
            ends.append(kept.restore(start, Progress("SpatialDropout1D", [run])))
    ((state, best), reached), (of_whole, whole) = ends
    assert reached.step == 18
    assert (reached.scores, reached.losses) == (whole.scores, whole.losses)
    jax.tree.map(np.testing.assert_array_equal, (state, best), of_whole)
    for end in (state.others, best.variables):
        assert np.all(end["batch_stats"]["BatchNorm_0"]["mean"] != 0)


class Measured(Normed):
    """Measures the share of outputs that dropout changes, with the key and without one."""

    def measure(self, predict, rate, key):
        inputs = tuple(map(jnp.asarray, self.data.validation.inputs))
        plain, same = predict(inputs), predict(inputs)
        changed = (predict(inputs, key=key) != plain).mean()
        data = jax.random.key_data(key).astype(jnp.float32)
        return {"rate": rate, "changed": changed, "same": (same != plain).mean(), "key": data}


def test_measures_are_those_of_the_best_network_of_each_run(corpus_path, tmp_path):
    config = small_config(corpus_path, epochs=1, rates=(0.5, 0.9))
    result = Grid(Measured(config), tmp_path).train("SpatialDropout1D", [], ignore)
    keys = []
    for run in result["runs"]:
        measures = run["measures"]
        assert measures["rate"] == run["rate"]
        assert measures["same"] == 0 < measures["changed"] <= 1
        assert ("key" in measures) == (run["rate"] == result["chosen_rate"])
        keys += [tuple(measures["key"])] if "key" in measures else []
    assert len(set(keys)) == 2


class Folded(Small):
    """The second seed has validation and test exchanged, and half of the words wrong in a test."""

    @staticmethod
    def load(data):
        loaded = Small.load(data)
        size = min(len(loaded.validation.targets), len(loaded.test.targets))
        train, validation, test = (
            jax.tree.map(lambda array: array[:size], split) for split in loaded[:3]
        )
        folds = Parts(train, validation, test), Parts(train, test, validation)
        return loaded._replace(train=train, validation=validation, test=test, folds=folds)

    def changed_tests(self, test):
        wrong = test.targets.at[..., ::2].set(-1)
        return {"same": test, "half wrong": test._replace(targets=wrong)}


def test_a_seed_has_the_parts_of_its_fold(corpus_path, tmp_path, monkeypatch):
    """With one start, and all examples in a batch, the runs differ in their parts alone."""
    monkeypatch.setattr(programs, "seeds_of", lambda runs: np.zeros(len(runs), np.int32))
    config = small_config(corpus_path, epochs=1, seeds=2, batch_size=1000)
    one, other = Grid(Folded(config), tmp_path).train("none", [], ignore)["runs"]
    assert one["validation_score"] == pytest.approx(other["test_score"])
    assert other["validation_score"] == pytest.approx(one["test_score"])
    assert one["validation_score"] != pytest.approx(one["test_score"])
    assert one["measures"]["same"] == pytest.approx(one["test_score"], abs=1e-5)
    assert one["measures"]["half wrong"] < 0.7 * one["test_score"]


def test_more_seeds_than_folds_get_one_sentence(corpus_path):
    with pytest.raises(InputError) as caught:
        Folded(small_config(corpus_path, seeds=3))
    assert str(caught.value) == (
        "config.seeds must be at most 2, because each seed has a part of the data for its test: "
        "got 3"
    )


class InvertedTagger(SmallTagger):
    """In evaluation it is the worst of taggers, unless the rate is 0."""

    def __call__(self, words, lengths, rate, *, deterministic):
        outputs = super().__call__(words, lengths, rate, deterministic=deterministic)
        return jnp.where(deterministic & (rate > 0), -outputs, outputs)


class Inverted(Small):
    tagger = InvertedTagger


def test_the_rates_follow_their_schedules(corpus_path, tmp_path):
    """The rate is 0 in the first two of three epochs, so the runs differ in the last alone.

    After the second epoch the rate is no longer 0 for the validation. The best epoch is the first,
    so the test has a rate of 0. Three epochs have 18 batches, or 9 updates.
    """
    config = small_config(corpus_path, rates=RATES[:2], seeds=1, epochs=3, patience=3)
    config.rate_schedule.update({"name": "late", "steps": 12})
    config.optimizer.update({"name": "adamw", "weight_decay": 0.1, "clip_norm": 1.0})
    config.optimizer.update({"schedule": "cosine", "warmup_steps": 2, "accumulate": 2})
    grid = Grid(Inverted(config), tmp_path, metrics=tmp_path)
    first, second = grid.train("SpatialDropout1D", [], ignore)["runs"]
    assert first["train_loss"][:2] == second["train_loss"][:2]
    assert first["train_loss"][2] != second["train_loss"][2]
    for run in (first, second):
        good, *bad = run["validation_curve"]
        assert max(bad) < 0.2 < good
        assert run["test_score"] > 0.2
    rows = metrics.read(tmp_path / f"SpatialDropout1D-{RATES[1]}-0")
    assert [row["step"] for row in rows] == [6, 12, 18]
    assert [row["dropout_rate"] for row in rows] == pytest.approx([0, 0, RATES[1]])
    updates = [2, 5, 8]  # the number of updates before that of the row's step, of 9
    decay = [(1 + math.cos(math.pi * (update - 2) / (9 - 2))) / 2 for update in updates]
    assert [row["learning_rate"] for row in rows] == pytest.approx(0.02 * np.array(decay))


class Own(Small):
    """One regularizer has a rate and a schedule of its own."""

    @classmethod
    def rates(cls, config, regularizer):
        return (0.9,) if regularizer == "Dropout" else super().rates(config, regularizer)

    def rate_schedule(self, regularizer):
        late = rate_schedule.defaults()
        late.update({"name": "late", "steps": 1000})
        return late if regularizer == "Dropout" else super().rate_schedule(regularizer)


def test_a_task_may_give_a_regularizer_rates_and_a_schedule_of_its_own(corpus_path, tmp_path):
    config = small_config(corpus_path, rates=RATES[:1], seeds=1, epochs=1)
    grid = Grid(Own(config), tmp_path)
    [plain], [late], [other] = (
        grid.train(name, [], ignore)["runs"] for name in ("none", "Dropout", "SpatialDropout1D")
    )
    assert [run["rate"] for run in (plain, late, other)] == [0, 0.9, RATES[0]]
    assert late["train_loss"] == plain["train_loss"] != other["train_loss"]


@pytest.mark.parametrize("call", [4, 100])
def test_the_steps_of_a_call_do_not_change_a_run(corpus_path, tmp_path, trained, call):
    """An epoch has 6 steps, so a call of 4 leaves 2."""
    config = small_config(corpus_path, steps_per_call=call, rates=RATES[:1], seeds=1)
    grid = Grid(Small(config), tmp_path)
    [run] = grid.train("SpatialDropout1D", [], ignore)["runs"]
    whole = trained[0]["runs"][0]
    for field in ("validation_curve", "test_score", "train_loss"):
        np.testing.assert_allclose(run[field], whole[field], rtol=1e-5)


def test_a_run_that_has_a_record_is_not_trained_again(corpus_path, tmp_path, trained):
    records = trained[0]["runs"][:5]
    grid = Grid(Small(small_config(corpus_path)), tmp_path)
    kept = [dict(run) for run in records]
    result = grid.train("SpatialDropout1D", records, ignore)
    assert result["runs"][:5] == kept
    assert without_seconds(result["runs"][5]) == without_seconds(trained[0]["runs"][5])
    again = grid.train("SpatialDropout1D", result["runs"], None)
    assert again["compile_seconds"] == result["compile_seconds"] > trained[0]["compile_seconds"]
    assert again["runs"] == result["runs"]


def without_seconds(run):
    return {field: value for field, value in run.items() if "seconds" not in field}


def test_a_plain_network_has_no_rate(config, tmp_path):
    config.epochs = 1
    result = Grid(Small(config), tmp_path).train("none", [], ignore)
    assert [(run["rate"], run["seed"]) for run in result["runs"]] == [(0.0, 0), (0.0, 1)]
    assert result["chosen_rate"] == 0.0


def test_seq2seq_trains(config, tmp_path):
    config.model = "seq2seq"
    grid = Grid(Tagging(config), tmp_path)
    losses = grid.train("SpatialDropout1D", [], ignore)["runs"][0]["train_loss"]
    assert losses[-1] < losses[0]


def test_the_rate_with_the_best_mean_is_chosen_and_the_lower_of_equals():
    def fake(rate, score):
        return {"rate": rate, "validation_score": score}

    finished = [fake(0.1, 0.8), fake(0.1, 0.6), fake(0.5, 0.74), fake(0.5, 0.7)]
    assert runs.choose_rate(finished, True) == 0.5
    assert runs.choose_rate(finished, False) == 0.1
    assert runs.choose_rate([fake(0.5, 0.7), fake(0.1, 0.7)], True) == 0.1
    assert runs.choose_rate([*finished, fake(0.5, None)], True) == 0.1
    assert runs.choose_rate([fake(0.1, None), fake(0.1, 0.7)], True) is None


def make_progress(*scores):
    progress = Progress("Dropout", [Run(0.5, 0), Run(0.5, 1)])
    for score in scores:
        progress.add(np.array([[0.5, 0.5], [0.25, 0.75]]))
        progress.end_epoch(2, np.array([0.75, score]))
    return progress


def test_a_record_has_the_epochs_of_its_own_run():
    progress = make_progress(0.5, 1.0, 0.25)
    assert progress.step == 6
    first, second = (runs.record(progress, lane, 9, 1 + lane, 0.5, {}) for lane in range(2))
    assert first["validation_curve"] == [0.75] * 3
    assert second["validation_curve"] == [0.5, 1.0, 0.25]
    assert second["train_loss"] == [0.5] * 3
    assert (second["seed"], second["best_epoch"], second["validation_score"]) == (1, 2, 1.0)
    waited = runs.record(progress, 0, 2, 1, 0.5, {})
    assert (waited["epochs"], waited["validation_curve"]) == (2, [0.75] * 2)


def test_runs_side_by_side_share_the_seconds():
    progress = make_progress(0.5)
    progress.seconds = 3.0
    assert runs.record(progress, 0, 1, 1, 0.5, {})["seconds"] == 1.5


@pytest.mark.parametrize(
    ("scores", "best", "ends"),
    [
        ([], [0, 0], [1, 1]),  # as no epoch has ended, both still train
        ([0.5], [1, 1], [2, 2]),
        ([0.5, 1.0, 0.5], [1, 2], [3, 4]),
        ([0.5, np.nan, 0.5], [2, 1], [4, 2]),
        ([np.inf, np.nan], [1, 0], [3, 1]),
    ],
)
def test_a_run_ends_when_it_is_out_of_patience_or_diverges(scores, best, ends):
    assert make_progress(*scores).ends(np.array(best), 2).tolist() == ends


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_run_with_a_score_that_is_no_number_has_diverged(wrong):
    progress = make_progress(0.5, wrong)
    sound, diverged = (runs.record(progress, lane, 9, 1, 0.5, {}) for lane in range(2))
    assert not sound["diverged"]
    assert diverged["diverged"]
    assert sound["test_score"] == 0.5
    assert diverged["validation_score"] is diverged["test_score"] is None
    assert diverged["validation_curve"] == [0.5, None]


def test_a_test_score_that_is_no_number_is_none():
    kept = runs.record(
        make_progress(0.5), 0, 1, 1, np.float32(np.inf), {"calibration": np.array([np.nan, 1 / 3])}
    )
    assert (kept["test_score"], kept["diverged"], kept["validation_score"]) == (None, True, 0.75)
    assert kept["measures"] == {"calibration": [None, 0.333333]}


def test_progress_is_the_same_after_json():
    progress = make_progress(0.5, 1 / 3, np.inf)
    progress.add(np.array([[0.1], [0.2]]))
    kept = json.loads(json.dumps(dataclasses.asdict(progress)))
    assert Progress.from_json(kept) == progress
