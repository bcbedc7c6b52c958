import contextlib
import errno
import json
import os
import re
import shutil
import signal

import pytest

from experiments import experiment, figure, main, metrics
from experiments.grid import Grid
from experiments.processes import Cluster

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

SMALL = [
    "--config=configs/pos_tagging.py:smoke",
    "--config.regularizers=('none','SpatialDropout1D')",
    "--config.rates=(0.5,)",
    "--config.epochs=2",
    "--config.features=8",
    "--config.hidden=8",
    "--config.batch_size=8",
]


@pytest.fixture
def args(corpus_path, tmp_path):
    workdir = tmp_path / "out"
    return ["main", *SMALL, f"--config.data.path={corpus_path}", f"--workdir={workdir}"]


def load(tmp_path):
    return json.loads((tmp_path / "out" / "results.json").read_text())


@pytest.mark.slow
def test_a_small_experiment_from_end_to_end(args, tmp_path, capsys):
    assert main.main([*args, "--profile"]) == 0
    out = capsys.readouterr().out
    assert "most frequent tag" in out
    assert "SpatialDropout1D: " in out
    results = load(tmp_path)
    assert results["missing"] == []
    assert results["versions"].keys() == {"python", "jax", "flax", "flax_spatialdrop"}
    assert results["config"]["rates"] == [0.5]
    assert len(results["regularizers"]["SpatialDropout1D"]["runs"]) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics", "profile", "results.json", "results.md", "results.png",
    ]  # fmt: skip


@pytest.fixture
def train_until(monkeypatch, results):
    """Replaces the training of one regularizer by an event; those before it have fake results."""

    def until(last, event):
        def train(self, name, records, on_epoch):
            if name == last:
                event(self)
            return results["regularizers"]["none"]

        monkeypatch.setattr(Grid, "train", train)

    return until


def test_a_run_without_a_second_call_says_that_nothing_was_traced(train_until, args, capsys):
    train_until(None, None)
    assert main.main([*args, "--profile"]) == 0
    assert "--profile traced nothing" in capsys.readouterr().err


def interrupted(grid):
    signal.raise_signal(signal.SIGINT)
    grid._check("this epoch")


@pytest.mark.parametrize("finished", [["none"], []])
def test_ctrl_c_keeps_what_is_finished_and_names_the_rest(
    args, tmp_path, capsys, train_until, finished
):
    """If nothing is finished, nothing is written."""
    missing = [name for name in ("none", "SpatialDropout1D") if name not in finished]
    train_until(missing[0], interrupted)
    assert main.main(args) == main.INTERRUPTED == 130
    sentence = f"No results for {', '.join(missing)}."
    out = capsys.readouterr().out
    if not finished:
        assert out.splitlines()[-1] == "No regularizer is finished yet."
        assert "most frequent tag" not in out
        assert not (tmp_path / "out").exists()
        return
    assert sentence in out
    saved = load(tmp_path)
    assert list(saved["regularizers"]) == finished
    assert saved["missing"] == missing
    assert sentence in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.parametrize("finished", [1, 0])
def test_an_earlier_run_s_results_are_kept(args, tmp_path, train_until, finished):
    old = dict.fromkeys(["results.json", "results.md", "results.png", "forecast.png"], "old")
    others = {"forecast.txt": "mine", "earlier-1": "mine"}
    (tmp_path / "out").mkdir()
    for name, text in {**old, **others}.items():
        (tmp_path / "out" / name).write_text(text)
    train_until(["none", "SpatialDropout1D"][finished], interrupted)
    assert main.main(args) == main.INTERRUPTED
    kept = tmp_path / "out" / ("earlier-2" if finished else "")
    assert {name: (kept / name).read_text() for name in old} == old
    assert {name: (tmp_path / "out" / name).read_text() for name in others} == others
    new = {path.name for path in (tmp_path / "out").iterdir()} - others.keys()
    assert new == (
        {"results.json", "results.md", "results.png", "earlier-2"} if finished else {*old}
    )


def test_ctrl_c_while_saving_saves_all(args, capsys, monkeypatch, train_until, tmp_path):
    def draw(results):
        signal.raise_signal(signal.SIGINT)
        return drawn(results)

    drawn = figure.draw
    monkeypatch.setattr(figure, "draw", draw)
    train_until("", None)
    assert main.main(args) == 0
    assert (tmp_path / "out" / "results.png").stat().st_size > 10_000
    assert capsys.readouterr().err == "Stopping after saving; Ctrl-C again stops at once.\n"


def test_two_runs_do_not_share_a_workdir(args, capsys, monkeypatch, tmp_path):
    def second(*_):
        assert main.main(args) == 1
        return 0, {}

    monkeypatch.setattr(experiment, "run", second)
    assert main.main(args) == 0
    workdir = tmp_path / "out"
    assert capsys.readouterr().err == (
        f"error: another run is using the workdir {workdir}: wait for it, or give another "
        "--workdir\n"
    )
    monkeypatch.setattr(experiment, "run", lambda *_: (0, {}))
    assert main.main(args) == 0


def test_a_workdir_that_was_removed_is_made_again(args, tmp_path, train_until):
    train_until("SpatialDropout1D", lambda _: shutil.rmtree(tmp_path / "out"))
    assert main.main(args) == 0
    assert list(load(tmp_path)["regularizers"]) == ["none", "SpatialDropout1D"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_what_cannot_be_saved_is_shown(args, capsys, monkeypatch, train_until, number):
    def write_bytes(*_):
        raise OSError(number, os.strerror(number))

    train_until("SpatialDropout1D", None)
    monkeypatch.setattr("pathlib.Path.write_bytes", write_bytes)
    assert main.main(args) == 1
    out, err = capsys.readouterr()
    assert "81.0 ± 12.7" in out
    assert "No results for SpatialDropout1D." in out
    why = os.strerror(number)
    assert re.fullmatch(f"error: cannot write .*out/results.json: {why}\n", err)


def test_a_checkpoint_that_cannot_be_written_loses_no_result(args, capsys, train_until, tmp_path):
    def fail(_):
        raise OSError("cannot write a checkpoint in x: No space left on device")

    train_until("SpatialDropout1D", fail)
    assert main.main(args) == 1
    out, err = capsys.readouterr()
    assert "81.0 ± 12.7" in out
    assert out.endswith(f"Results are in {tmp_path / 'out'}.\n--resume continues this run.\n")
    assert err == "error: cannot write a checkpoint in x: No space left on device\n"
    assert list(load(tmp_path)["regularizers"]) == ["none"]


def test_resume_trains_what_is_missing_and_refuses_another_config(
    args, capsys, train_until, tmp_path
):
    train_until("SpatialDropout1D", interrupted)
    assert main.main(args) == main.INTERRUPTED
    before = load(tmp_path)
    capsys.readouterr()
    assert main.main([*args, "--resume", "--config.seeds=3"]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'out'} was made with config.seeds=2, not 3: use the same config or "
        "another --workdir\n"
    )
    assert load(tmp_path) == before
    train_until("none", lambda _: pytest.fail("none has ended"))
    assert main.main([*args, "--resume"]) == 0
    assert capsys.readouterr().out.startswith("--resume skips what has ended: none.\n")
    after = load(tmp_path)
    assert after["missing"] == []
    assert after["regularizers"]["none"] == before["regularizers"]["none"]
    assert after["date"] == before["date"]
    assert not (tmp_path / "out" / "earlier-1").exists()


def test_what_cannot_be_shown_is_saved(args, capsys, monkeypatch, train_until, tmp_path):
    full = open("/dev/full", "w")  # noqa: SIM115 - it is what stdout becomes
    train_until("SpatialDropout1D", lambda _: monkeypatch.setattr("sys.stdout", full))
    assert main.main(args) == 1
    with contextlib.suppress(OSError):
        full.close()
    assert list(load(tmp_path)["regularizers"]) == ["none", "SpatialDropout1D"]
    sentence = "error: cannot write to the standard output: No space left on device\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.slow
def test_a_run_that_diverges_says_so_everywhere(args, tmp_path, capsys):
    assert main.main([*args, "--config.optimizer.learning_rate=1e30"]) == 0
    out = capsys.readouterr().out
    assert "none: 2 of 2 runs diverged." in out
    assert "SpatialDropout1D: 2 of 2 runs diverged (rate 0.5)" in out
    assert re.search(
        r"SpatialDropout1D:  50 %  rate 0.5  seed 0, 1  loss \S+  validation diverged", out
    )
    text = (tmp_path / "out" / "results.json").read_text()
    results = json.loads(text, parse_constant=pytest.fail)
    for result in results["regularizers"].values():
        assert result["chosen_rate"] is None
        for run in result["runs"]:
            assert run["diverged"]
            assert run["test_score"] is run["validation_score"] is None
    assert "| SpatialDropout1D |  | diverged | diverged |  |" in (
        tmp_path / "out" / "results.md"
    ).read_text("utf-8")
    assert (tmp_path / "out" / "results.png").exists()
    last = metrics.read(tmp_path / "out" / "metrics" / "SpatialDropout1D-0.5-1")[-1]
    assert last["validation_score"] is None
    assert last["diverged"]


def test_ctrl_c_while_loading_says_so(args, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.tagging.corpus.load", interrupted)
    assert main.main(args) == main.INTERRUPTED
    assert capsys.readouterr().err == "Interrupted while nothing was training.\n"


def test_a_crash_loses_no_finished_regularizer(args, tmp_path, capsys, train_until):
    def crash(_):
        raise RuntimeError("crash")

    train_until("SpatialDropout1D", crash)
    with pytest.raises(RuntimeError, match="crash"):
        main.main(args)
    assert list(load(tmp_path)["regularizers"]) == ["none"]
    assert "81.0 ± 12.7" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        *("--config.foo=1", "--config.data.path=no.conllu", "--workdir=/dev/null/x"),
        *("--config.mesh.data=99", "--config.optimizer.warmup_steps=99"),
    ],
)
def test_bad_input_is_one_sentence_before_any_training(args, capsys, monkeypatch, wrong, tmp_path):
    monkeypatch.setattr(Grid, "train", None)
    assert main.main([*args, wrong]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help(capsys):
    assert main.main(["main", "--help"]) == 0
    out = capsys.readouterr().out
    assert "python -m experiments.main --config=configs/pos_tagging.py" in out
    for name in ("workdir", "[no]resume", "[no]profile", "[no]distributed", *Cluster._fields):
        assert f"\n  --{name}: " in out


def run_smoke(config, fields, workdir):
    """Returns the exit code of the program for a smoke config with fields such as "seeds=1"."""
    given = [f"--config.{field}" for field in ("checkpoint_every=0", *fields)]
    return main.main(
        ["main", f"--config=configs/{config}.py:smoke", *given, f"--workdir={workdir}"]
    )


@pytest.mark.slow
def test_a_small_forecast_from_end_to_end(tmp_path, capsys):
    """Runs on the real weather, and checks everything that is saved."""
    workdir = tmp_path / "out"
    small = ("seeds=1", "rates=(0.5,)", "epochs=1", "hidden=4", "data.train_stride=60")
    small += ("regularizers=('none','CNN none','CNN channels')",)
    small += ("data.hours=8", "data.shown_hours=20")
    assert run_smoke("weather_forecast", small, workdir) == 0
    out = capsys.readouterr().out
    assert "8730 hours of 7 channels" in out
    assert "CNN channels: " in out
    results = load(tmp_path)
    assert list(results["regularizers"]) == results["config"]["regularizers"]
    assert results["missing"] == []
    assert all(
        "shown" in result["runs"][-1]["measures"] for result in results["regularizers"].values()
    )
    assert sorted(path.name for path in workdir.iterdir()) == [
        "forecast.png", "metrics", "results.json", "results.md", "results.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_small_language_model_from_end_to_end(tmp_path, capsys):
    """Runs on the real sentences, and checks everything that is saved."""
    workdir = tmp_path / "out"
    small = ("seeds=1", "rates=(0.5,)", "epochs=1", "layers=1", "features=8", "heads=2")
    small += ("data.train_sentences=10", "regularizers=('none','spans')")
    assert run_smoke("language_model", small, workdir) == 0
    out = capsys.readouterr().out
    assert "(10 sentences, 3 documents; " in out
    assert "spans: " in out
    results = load(tmp_path)
    assert list(results["regularizers"]) == ["none", "spans"]
    assert results["missing"] == []
    assert 1 < results["baseline_test_score"] < results["data"]["characters"]
    assert sorted(path.name for path in workdir.iterdir()) == [
        "metrics", "results.json", "results.md", "results.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_small_calibration_from_end_to_end(tmp_path):
    """Runs on digits of scikit-learn, and checks everything that is saved."""
    small = ("seeds=1", "epochs=1", "regularizers=('Dropout',)", "optimizer.warmup_steps=0")
    assert run_smoke("mc_calibration", small, tmp_path / "out") == 0
    [run] = load(tmp_path)["regularizers"]["Dropout"]["runs"]
    assert 0 < run["measures"]["NLL, clean, passes"] < 10
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "calibration.png", "metrics", "results.json", "results.md", "results.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_small_run_of_the_sensors_from_end_to_end(tmp_path):
    """Runs on the real recordings, and checks everything that is saved."""
    small = ("seeds=2", "epochs=1", "rates=(0.4,)", "regularizers=('none','ModalityDropout')")
    assert run_smoke("sensors", small, tmp_path / "out") == 0
    results = load(tmp_path)
    assert results["folds"] == len(results["data"]["baseline_of_each_person"]) == 10
    for result in results["regularizers"].values():
        assert all(run["measures"].keys() == results["measures"].keys() for run in result["runs"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "failures.png", "metrics", "results.json", "results.md", "results.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_small_study_of_images_from_end_to_end(tmp_path):
    """Each condition trains in a folder of its own, and one figure is about all."""
    small = ("seeds=1", "epochs=1", "optimizer.warmup_steps=0")
    assert run_smoke("image_classification", small, tmp_path / "out") == 0
    conditions = load(tmp_path)["conditions"]
    norms = {name: results["config"]["norm"] for name, results in conditions.items()}
    assert norms == {"100 images": "batch", "100 images, group norm": "group"}
    assert list(conditions["100 images, group norm"]["regularizers"]) == ["none", "Dropout"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *norms, "results.json", "results.md", "results.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_small_language_model_of_words_from_end_to_end(tmp_path, capsys):
    """Runs on the real text, and checks everything that is saved."""
    workdir = tmp_path / "out"
    small = ("seeds=1", "rates=(0.5,)", "epochs=1", "layers=1", "features=8")
    assert run_smoke("word_language_model", small, workdir) == 0
    out = capsys.readouterr().out
    assert "king_james: train 1000 words" in out
    assert "AWD-LSTM: " in out
    results = load(tmp_path)
    assert list(results["regularizers"]) == ["none", "AWD-LSTM"]
    assert results["missing"] == []
    assert results["data"]["vocabulary"] == 100
    [run] = results["regularizers"]["AWD-LSTM"]["runs"]
    assert run["measures"]["monte_carlo"] != run["test_score"]
    assert sorted(path.name for path in workdir.iterdir()) == [
        "metrics", "published_order.png", "results.json", "results.md", "results.png",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_small_study_of_schedules_from_end_to_end(tmp_path):
    """Runs on the real text, once and in two epochs, with the schedule in half of the steps."""
    assert run_smoke("rate_schedules", ("seeds=1", "layers=1"), tmp_path / "out") == 0
    conditions = load(tmp_path)["conditions"]
    epochs = {name: results["config"]["epochs"] for name, results in conditions.items()}
    assert epochs == {"single epoch": 1, "many epochs": 2}
    for results in conditions.values():
        assert list(results["regularizers"]) == ["none", "early"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "many epochs", "results.json", "results.md", "results.png", "single epoch",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_small_study_of_localization_from_end_to_end(tmp_path):
    """Runs on composed digits, and draws what the networks find."""
    small = ("seeds=1", "epochs=1")
    assert run_smoke("localization", small, tmp_path / "out") == 0
    conditions = load(tmp_path)["conditions"]
    assert list(conditions) == ["20 scenes", "40 scenes"]
    for results in conditions.values():
        for result in results["regularizers"].values():
            [run] = result["runs"]
            curve = run["measures"]["curve"]
            assert run["test_score"] == pytest.approx(curve[10], rel=1e-5)  # at 0.2 torsos
            assert 0 < curve[-1] <= 1
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [*conditions, "results.json", "results.md", "results.png"]
    assert (tmp_path / "out/20 scenes/detection.png").exists()
