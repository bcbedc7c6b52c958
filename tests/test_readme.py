"""The numbers in the README are those that the commands of the repository printed."""

import pathlib

import pytest

from experiments.benchmarks import table
from experiments.benchmarks.results import Results

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["pos_tagging", "weather_forecast", "language_model"])
def test_the_tables_of_results_are_those_that_were_printed(name):
    results = ROOT / "experiments/results" / name / "results.md"
    rows = [line for line in results.read_text().splitlines() if line.startswith("|")]
    assert len(rows) >= 7
    assert "\n".join(rows) in README


BENCHMARKS = ROOT / "experiments/results/benchmarks"


def test_the_table_of_costs_is_made_of_the_results():
    short = table.short(Results.load(BENCHMARKS / "cpu.json"))
    assert len(short.splitlines()) == 2 + 8
    assert short in README


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.json")), ids=lambda path: path.stem)
def test_reports_are_made_of_their_results(path):
    assert table.report(Results.load(path)) == path.with_suffix(".md").read_text()


def test_every_file_that_it_links_to_is_there():
    targets = [part.split(")")[0] for part in README.split("](")[1:]]
    files = [target for target in targets if not target.startswith(("http", "#"))]
    assert files
    assert [target for target in files if not (ROOT / target).exists()] == []
