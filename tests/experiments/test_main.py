import json
import signal

import pytest

from experiments import main
from experiments.grid import Grid

# ml_collections loads a config file in a way that Python means to retire.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

SMALL = [
    "--config=configs/pos_tagging.py:smoke",
    "--config.regularizers=('none','SpatialDropout1D')",
    "--config.rates=(0.5,)",
    "--config.grid_mode=one_by_one",
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


def test_a_small_experiment_from_end_to_end(args, tmp_path, capsys):
    assert main.main(args) == 0
    out = capsys.readouterr().out
    assert "most frequent tag" in out
    assert "SpatialDropout1D: " in out
    results = load(tmp_path)
    assert results["missing"] == []
    assert results["versions"].keys() == {"python", "jax", "flax", "flax_spatialdrop"}
    assert results["config"]["rates"] == [0.5]
    assert results["grid"]["mode"] == "one_by_one"
    assert len(results["regularizers"]["SpatialDropout1D"]["runs"]) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "results.json", "results.md", "results.png",
    ]  # fmt: skip


@pytest.mark.parametrize("finished", [["none"], []])
def test_ctrl_c_keeps_what_is_finished_and_names_the_rest(
    args, tmp_path, capsys, monkeypatch, results, finished
):
    def train(self, name, on_epoch):
        if name not in finished:
            signal.raise_signal(signal.SIGINT)
            on_epoch(0.5, 1.0, 0.5)
        return results["regularizers"][name]

    monkeypatch.setattr(Grid, "train", train)
    assert main.main(args) == main.INTERRUPTED == 130
    missing = [name for name in ("none", "SpatialDropout1D") if name not in finished]
    sentence = f"No results for {', '.join(missing)}."
    saved = load(tmp_path)
    assert list(saved["regularizers"]) == finished
    assert saved["missing"] == missing
    assert sentence in capsys.readouterr().out
    assert sentence in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.parametrize("moment", ["report.save", "figure.draw"])
def test_ctrl_c_while_saving_says_so(args, capsys, monkeypatch, results, tmp_path, moment):
    def interrupted(*_):
        raise KeyboardInterrupt

    def trained(*_):
        # Saving is interrupted once training is over, not after a regularizer.
        monkeypatch.setattr(f"experiments.{moment}", interrupted)
        return 0

    monkeypatch.setattr("experiments.report.start", lambda *_: results)
    monkeypatch.setattr(main, "train", trained)
    assert main.main(args) == main.INTERRUPTED
    sentence = f"Interrupted while saving: {tmp_path / 'out'} may lack the figure.\n"
    assert capsys.readouterr().err == sentence


def test_ctrl_c_while_loading_says_so(args, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.tagging.corpus.load", interrupted)
    assert main.main(args) == main.INTERRUPTED
    assert capsys.readouterr().err == "Interrupted before training began.\n"


def test_a_crash_loses_no_finished_regularizer(args, tmp_path, monkeypatch, results):
    def train(self, name, on_epoch):
        if name != "none":
            raise RuntimeError("crash")
        return results["regularizers"][name]

    monkeypatch.setattr(Grid, "train", train)
    with pytest.raises(RuntimeError, match="crash"):
        main.main(args)
    assert list(load(tmp_path)["regularizers"]) == ["none"]


@pytest.mark.parametrize(
    "wrong", ["--config.foo=1", "--config.data.path=no.conllu", "--workdir=/dev/null/x"]
)
def test_bad_input_is_one_sentence_before_any_training(args, capsys, monkeypatch, wrong):
    monkeypatch.setattr(Grid, "train", None)
    assert main.main([*args, wrong]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_help(capsys):
    assert main.main(["main", "--help"]) == 0
    assert "python -m experiments.main --config=configs/pos_tagging.py" in capsys.readouterr().out


def run_smoke(config, fields, workdir):
    """The exit code of the program with a smoke config, with fields such as "seeds=1" changed."""
    given = [f"--config.{field}" for field in fields]
    return main.main(
        ["main", f"--config=configs/{config}.py:smoke", *given, f"--workdir={workdir}"]
    )


def test_a_small_forecast_from_end_to_end(tmp_path, capsys):
    """On the real weather, with all that is saved."""
    workdir = tmp_path / "out"
    small = ("seeds=1", "rates=(0.5,)", "epochs=1", "hidden=4", "data.train_stride=60")
    small += ("regularizers=('none','both','CNN none','CNN channels')",)
    small += ("data.hours=8", "data.shown_hours=20")
    assert run_smoke("weather_forecast", small, workdir) == 0
    out = capsys.readouterr().out
    assert "8730 hours of 7 channels" in out
    assert "CNN channels: " in out
    results = load(tmp_path)
    assert list(results["regularizers"]) == results["config"]["regularizers"]
    assert results["missing"] == []
    assert all("shown" in result["runs"][0] for result in results["regularizers"].values())
    assert sorted(path.name for path in workdir.iterdir()) == [
        "forecast.png", "results.json", "results.md", "results.png",
    ]  # fmt: skip


def test_a_small_language_model_from_end_to_end(tmp_path, capsys):
    """On the real sentences, with every form of dropout and all that is saved."""
    workdir = tmp_path / "out"
    small = ("seeds=1", "rates=(0.5,)", "epochs=1", "layers=1", "features=8", "heads=2")
    small += ("data.train_sentences=10",)
    assert run_smoke("language_model", small, workdir) == 0
    out = capsys.readouterr().out
    assert "(10 sentences, 3 documents; " in out
    assert "spans: " in out
    results = load(tmp_path)
    assert list(results["regularizers"]) == ["none", "weights", "heads", "keys", "spans"]
    assert results["missing"] == []
    assert 1 < results["baseline_test_score"] < results["data"]["characters"]
    assert sorted(path.name for path in workdir.iterdir()) == [
        "results.json", "results.md", "results.png",
    ]  # fmt: skip
