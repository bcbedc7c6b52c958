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
    assert report.sentences(results)[-1] == "Interrupted: no results for SpatialDropout1D."
    assert "no results for SpatialDropout1D" in report.markdown(results)
    results["missing"] = []
    assert "Interrupted" not in report.markdown(results)


def test_markdown_tells_the_data_and_what_was_left_out(results):
    text = report.markdown(results)
    assert "train 10 sentences (99 tokens, 3 documents; 1 too long, left out)" in text
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


def test_markdown_tells_what_each_mode_cost(results):
    cost = {"seconds_per_step": 0.0042, "compile_seconds": 3.21}
    results["grid"] = {"mode": "vmapped", "trials": {"vmapped": cost}}
    text = report.markdown(results)
    assert "trained vmapped" in text
    assert "vmapped 4.2 ms a step of one run and 3.2 s to compile" in text
    results["grid"]["trials"] = {}
    assert "to compile" not in report.markdown(results)
