import matplotlib.image
import numpy as np

from experiments.benchmarks import figure

from .test_table import FAST, KEPT, SLOW, results


def test_the_figure_is_drawn(tmp_path):
    assert figure.save(results(FAST, SLOW), tmp_path / "cpu.png")
    pixels = matplotlib.image.imread(tmp_path / "cpu.png")
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20


def test_without_its_rows_there_is_none(tmp_path):
    assert not figure.save(results(SLOW, KEPT), tmp_path / "cpu.png")
    assert list(tmp_path.iterdir()) == []
