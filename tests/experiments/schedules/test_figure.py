import numpy as np

from experiments.schedules import figure

from ..conftest import diverge


def test_each_condition_has_the_differences_of_its_schedules(results, errors):
    worse = {**errors, "metric": {**errors["metric"], "scale": 1}}
    canvas = figure.draw({"single epoch": results, "many epochs": worse})
    left, right = canvas.axes
    assert left.get_title().startswith("single epoch")
    table = [row for row in figure.rows(results) if row.compared_to]
    points = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "o"]
    expected = [results["metric"]["scale"] * row.difference.mean for row in table]
    np.testing.assert_allclose(points, expected)
    assert "better is right" in left.get_xlabel() or "better is left" in left.get_xlabel()
    assert "better is left" in right.get_xlabel()
    assert left.get_xlim() == right.get_xlim()
    assert [text.get_text() for text in left.get_yticklabels()] == ["Dropout 0.5"]


def test_a_diverged_schedule_has_a_name_and_no_point(results):
    diverge(results, "Dropout")
    [ax] = figure.draw({"single epoch": results}).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["Dropout: diverged"]
    assert not [line for line in ax.lines if line.get_marker() == "o"]
