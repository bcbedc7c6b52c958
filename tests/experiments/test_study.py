"""A config of conditions is an experiment for each, and a report of all."""

import copy
import json
import signal

import pytest
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments import experiment, figure, main, settings, study
from experiments.errors import InputError
from experiments.loop import Loop
from experiments.output import Console
from experiments.tasks import TASKS

from ..errors import exactly
from .conftest import diverge
from .small import Small

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CONFIG = """
from configs.pos_tagging import get_config as pos_tagging

def get_config():
    config = pos_tagging("smoke")
    config.update({"regularizers": ("none",), "seeds": 1, "epochs": 4, "batch_size": 8})
    config.update({"checkpoint_every": 1, "patience": 4})
    config.data.update({"path": PATH, "train_sentences": 0, "test_sentences": 0})
    config.conditions = {"9 words": {"data": {"max_length": 9}}, "10 sentences": TEN}
    return config

PATH = "CORPUS"
TEN = {"data": {"train_sentences": 10}, "batch_size": 5}
"""


@pytest.fixture
def with_conditions(config):
    def make(**conditions):
        with config.unlocked():
            config.conditions = ConfigDict(conditions)
        return config.lock()

    return make


def test_a_condition_changes_fields_and_the_name(with_conditions):
    config = with_conditions(
        **{"1,000 words": {}, "100 words": {"data": {"min_count": 3}}, "20 words": {"seeds": 4}},
        **{"a 10": {}, "a 2": {}},
    )
    found = settings.conditions(config)
    assert list(found) == ["20 words", "100 words", "1,000 words", "a 2", "a 10"]
    assert found["100 words"].data.min_count == 3
    assert found["100 words"].data.path == config.data.path
    assert [condition.seeds for condition in found.values()] == [4, 2, 2, 2, 2]
    assert found["20 words"].name == "pos_tagging-smoke, 20 words"
    assert all("conditions" not in condition for condition in found.values())
    assert (config.name, config.seeds) == ("pos_tagging-smoke", 2)


def test_a_config_may_have_no_conditions(config, with_conditions):
    assert settings.conditions(config) == settings.conditions(with_conditions()) == {}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("a", {"seeds": 0}, "condition a: config.seeds must be at least 1: got 0"),
        ("a", {"seeds": "x"}, "condition a: config.seeds must be a whole number: got 'x'"),
        ("a", {"name": "b"}, "condition a: config.name must be the same in all conditions"),
        (
            "a",
            {"task": "language"},
            "condition a: config.task must be the same in all conditions",
        ),
        ("a", {"data": 3}, "condition a: config.data must be a ConfigDict: got 3"),
        ("a", 3, "condition a: config must be a ConfigDict: got 3"),
        (
            "a/b",
            {},
            "the name of a condition must be the name of a folder, without a path: got 'a/b'",
        ),
    ],
)
def test_a_wrong_condition_gets_one_sentence(with_conditions, name, changes, message):
    with pytest.raises(InputError, match=exactly(message)):
        settings.conditions(with_conditions(**{name: changes}))


def test_an_unknown_field_of_a_condition_gets_one_sentence(with_conditions):
    config = with_conditions(a={"data": {"word": 3}})
    fields = ", ".join(config.data)
    message = f"condition a: config.data has no field word: it has {fields}"
    with pytest.raises(InputError, match=exactly(message)):
        settings.conditions(config)
    with config.ignore_type():
        config.conditions = 3
    with pytest.raises(InputError, match=exactly("config.conditions must be a ConfigDict: got 3")):
        settings.conditions(config)


@pytest.fixture
def two(results):
    """The fake results under two conditions. In the second, dropout is a point better."""
    other = copy.deepcopy(results)
    for run in other["regularizers"]["Dropout"]["runs"][:2]:
        run["test_score"] += 0.01
    header = {name: results[name] for name in ("config", "date", "device", "versions", "metric")}
    found = {**header, "measures": {}, "conditions": {}, "missing": ["few", "many", "all"]}
    study.add(found, "few", {**results, "missing": []})
    study.add(found, "many", other)
    return found


def test_the_report_has_the_differences_then_each_condition(two, capsys):
    text = study.markdown(two)
    assert (
        "\nDifferences of accuracy in points (higher is better):\n\n"
        "| regularizer | few | many |\n"
        "|---|---:|---:|\n"
        "| Dropout | +4.50 ± 6.35 | +5.50 ± 6.35 |\n"
        "\n"
        "- Results are missing for many, all.\n"
        "\n"
        "## few\n"
        "\n"
        "Data: ten sentences.\n"
        "\n"
        "| regularizer |"
    ) in text
    assert text.startswith("# example\n\n2030-01-01, cpu, jax 1.2.3.\n\nAccuracy in % (higher is")
    assert text.count("Rates are chosen on validation data") == 1
    assert text.count("\n| Dropout | 0.5 | 90.0 ± 0.0 |") == 2
    study.show(two, Console())
    out = capsys.readouterr().out
    assert "+5.50 ± 6.35" in out
    assert out.endswith("Results are missing for many, all.\n")
    del two["conditions"]["many"]["regularizers"]["Dropout"]
    text = study.markdown(two)
    assert text.count("Rates are chosen on validation data") == 1
    assert "Differences are to none" in text
    del two["conditions"]["few"]["regularizers"]["Dropout"]
    assert study.differences(two) == []


def test_the_report_compares_measures_too(two):
    two["measures"] = {"gain": two["metric"]}
    for results in two["conditions"].values():
        for result in results["regularizers"].values():
            for run in result["runs"]:
                run["measures"]["gain"] = run["seed"] + 0.01 * run["rate"]
    assert "| Dropout | +0.50 ± 0.00 | +0.50 ± 0.00 |" in study.markdown(two)
    diverge(two["conditions"]["few"], "Dropout")
    assert "| Dropout |  | +0.50 ± 0.00 |" in study.markdown(two)


@pytest.fixture
def args(corpus_path, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "tagging", Small)
    monkeypatch.setattr(Small, "study_figures", {"both.png": lambda results: drawn(results)})
    monkeypatch.setattr(figure, "draw", lambda results: Figure())
    path = tmp_path / "config.py"
    path.write_text(CONFIG.replace("CORPUS", str(corpus_path)))

    def drawn(results):
        figures.append(list(results))
        return Figure()

    figures = []
    return ["main", f"--config={path}", f"--workdir={tmp_path / 'out'}"], figures


def test_a_study_goes_on_where_it_was_stopped(args, tmp_path, capsys, monkeypatch):
    """Ctrl-C stops the second condition in its second of four epochs."""
    args, figures = args
    calls, call, workdir = [], Loop.call, tmp_path / "out"

    def counted(self, profiler):
        calls.append(self.progress.step)
        if len(calls) == 6:
            signal.raise_signal(signal.SIGINT)
        return call(self, profiler)

    monkeypatch.setattr(Loop, "call", counted)
    for folder in (workdir, workdir / "9 words"):
        folder.mkdir()
        (folder / "results.json").write_text("old")
    assert main.main(args) == main.INTERRUPTED
    names = ["9 words", "10 sentences"]
    assert calls == [0, 6, 12, 18, 0, 2]
    found = json.loads((workdir / "results.json").read_text())
    assert (list(found["conditions"]), found["missing"]) == (names[:1], names[1:])
    assert "- Results are missing for 10 sentences." in (workdir / "results.md").read_text()
    assert main.main([*args, "--resume"]) == 0
    assert calls[6:] == [4, 6]
    found = json.loads((workdir / "results.json").read_text())
    assert (list(found["conditions"]), found["missing"]) == (names, [])
    assert figures[-1] == names
    for name in names:
        own = json.loads((workdir / name / "results.json").read_text())
        assert found["conditions"][name] == own
        assert own["config"]["name"] == f"pos_tagging-smoke, {name}"
    kept = {path.name for path in workdir.iterdir()}
    assert kept == {*names, "both.png", "earlier-1", "results.json", "results.md"}
    out = capsys.readouterr().out
    assert out.endswith(f"Results are in {workdir}.\n")
    for folder in (workdir, workdir / "9 words"):
        assert (folder / "earlier-1" / "results.json").read_text() == "old"


def test_a_study_does_not_go_on_from_another(args, tmp_path, capsys, monkeypatch):
    args, _ = args
    monkeypatch.setattr(experiment, "run", lambda *_: (0, {"regularizers": {}}))
    results = study.start(settings.parse(args)[0], ["9 words"])
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "results.json"
    path.write_text(json.dumps(results))
    assert main.main([*args, "--resume", "--config.seeds=2"]) == 1
    assert capsys.readouterr().err == (
        f"error: {path.parent} was made with config.seeds=1, not 2: use the same config or "
        "another --workdir\n"
    )
