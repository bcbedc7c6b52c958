import matplotlib.image
import pytest
from matplotlib.figure import Figure

from experiments.benchmarks import figure
from experiments.benchmarks.tpu import SCHEDULE

from .test_table import FAST, KEPT, SLOW, record, results


def test_the_figure_has_a_panel_for_each_kind_that_was_measured(tmp_path):
    other = record(FAST.row.replace("spatial", "element-wise"), 10.0, 20.0, 30.0)
    assert figure.save(results(FAST, other), tmp_path / "both.png")
    assert matplotlib.image.imread(tmp_path / "both.png").shape[:2] == (780, 1800)
    assert figure.save(results(FAST, SLOW), tmp_path / "one.png")
    assert matplotlib.image.imread(tmp_path / "one.png").shape[:2] == (780, 1200)


def test_bars_are_ratios_to_the_copy_and_pytorch_s_to_its_own():
    ax = Figure().subplots()
    figure._bars(ax, [FAST])
    bars = {c.get_label(): c.patches[0].get_width() for c in ax.containers}
    assert bars == pytest.approx({"flax_spatialdrop": 1.2, "Flax": 4.8, "PyTorch": 3.0})


def test_of_a_tpu_the_cycles_of_the_schedule_are_drawn(tmp_path, monkeypatch):
    row, drawn = record(FAST.row, 10.0, 20.0, 30.0, quantity=SCHEDULE), []
    row.values["floor"] = 9.0
    original = figure._bars
    monkeypatch.setattr(figure, "_bars", lambda *args: drawn.append(args[1]) or original(*args))
    assert figure.save(results(FAST, row), tmp_path / "tpu.png")
    assert drawn[0] == [row]
    ax = Figure().subplots()
    original(ax, [row])
    assert "floor" not in {bars.get_label() for bars in ax.containers}


def test_without_its_rows_there_is_none(tmp_path):
    assert not figure.save(results(SLOW, KEPT), tmp_path / "cpu.png")
    assert list(tmp_path.iterdir()) == []
