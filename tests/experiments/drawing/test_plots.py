import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import pyplot as plt

import flax_spatialdrop as fsd
from experiments.drawing import plots


@pytest.mark.parametrize("index", range(len(plots.KINDS)))
def test_the_noise_shape_written_is_the_one_drawn(index):
    kind, output = plots.KINDS[index], plots.outputs()[index]
    key = jax.random.key(plots.SEED)
    expected = fsd.dropout(key, jnp.ones(plots.SHAPE), 0.5, noise_shape=kind.noise_shape)
    np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("output", plots.outputs(), ids=[k.draw.__name__ for k in plots.KINDS])
def test_every_panel_shows_kept_and_dropped_cells(output):
    assert 0 < np.count_nonzero(output) < output.size


def test_draws_a_picture_as_wide_as_a_page(tmp_path):
    plots.save_masks(tmp_path / "masks.png")
    height, width, _ = plt.imread(tmp_path / "masks.png").shape
    assert width == 1800
    assert height < width / 3
