"""The results in the repository can still be read."""

import json
from pathlib import Path

import pytest

from experiments import report, study
from experiments.correlation import report as correlation

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
STORED = [path.parent.name for path in sorted(RESULTS.glob("*/results.json"))]


def markdown(results):
    if "places" in results:
        return correlation.markdown(results)
    return study.markdown(results) if "conditions" in results else report.markdown(results)


@pytest.mark.parametrize("name", STORED)
def test_they_give_the_report_beside_them(name):
    results = json.loads((RESULTS / name / "results.json").read_text("utf-8"))
    assert markdown(results) == (RESULTS / name / "results.md").read_text("utf-8")


def test_all_are_found():
    assert {"correlation", "localization", "pos_tagging"} <= {*STORED}
