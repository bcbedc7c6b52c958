import json

import pytest
from rich.console import Console

from experiments import report


def test_the_table_fits_eighty_columns_and_has_every_row(results, capsys):
    Console(width=80).print(report.table(results))
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if "│" in line]
    assert len(lines) == 3
    assert [cell.strip() for cell in lines[0].split("│")[1:5]] == [
        "most frequent tag", "", "", "75.0",
    ]  # fmt: skip
    assert "+4.50" in lines[2]


def test_the_report_names_what_is_missing(results):
    assert report.sentences(results)[-1] == "No results for SpatialDropout1D."
    assert "- No results for SpatialDropout1D." in report.markdown(results)
    results["missing"] = []
    assert "No results" not in report.markdown(results)


def test_the_report_counts_runs_that_the_cap_on_epochs_ended(results):
    first, last = results["regularizers"]["Dropout"]["runs"][:2]
    assert (first["epochs"], last["epochs"]) == (2, 3)
    sentence = "Dropout: 2 of 4 runs reached the cap of 3 epochs before they were out of patience."
    assert sentence in report.sentences(results)
    assert sentence in report.markdown(results)
    # Patience that runs out in the very last epoch counts as early stopping.
    results["config"]["patience"] = 1
    assert "cap" not in " ".join(report.sentences(results))


def test_markdown_tells_the_data_and_what_the_numbers_are(results):
    text = report.markdown(results)
    assert "\nData: ten sentences.\n" in text
    assert "Accuracy in % (higher is better), mean and 95 % t-interval over 2 seeds" in text
    assert "Differences are to none, in points, paired by seed" in text
    assert "thus optimistic" in text
    assert "| Dropout | 0.5 | 90.0 ± 0.0 | 85.5 ± " in text


def test_save_replaces_whole_files(results, tmp_path, monkeypatch):
    report.save(results, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    old = (tmp_path / "results.json").read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.save({**results, "date": "later"}, tmp_path)
    assert (tmp_path / "results.json").read_text() == old


def test_markdown_tells_what_a_trial_of_the_modes_found(results):
    cost = {"regularizer": "Dropout", "seconds_per_step": 0.0042, "compile_seconds": 3.21}
    results["grid"] = {"mode": "vmapped", "trials": {"vmapped": {**cost, "lanes": 20}}}
    assert (
        "Runs were trained vmapped, by a trial of an epoch of Dropout: "
        "vmapped 3.2 s to compile and 4.2 ms a step of one run (20 at a time);"
    ) in report.markdown(results)


def test_markdown_tells_what_a_given_mode_cost(results):
    text = report.markdown(results)
    assert "Runs were trained one_by_one, as the config says." in text
    assert "Dropout 1.2 s to compile and 3.1 ms a step of one run" in text
