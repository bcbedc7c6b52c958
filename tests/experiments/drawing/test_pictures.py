import numpy as np
import pytest

from experiments.drawing import pictures
from tests.catalogue import CASES


@pytest.mark.parametrize("name", sorted({case.function.__name__ for case in CASES}))
def test_every_regularizer_has_a_picture(name):
    assert name in pictures.PICTURES


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_has_both_colors_and_its_file_is_what_the_command_draws(name):
    picture = pictures.PICTURES[name]()
    kept = np.concatenate([grid.kept.ravel() for row in picture.rows for grid in row])
    assert kept.min() == 0
    assert kept.max() == 1
    assert (pictures.FOLDER / f"{name}.svg").read_text() == pictures.to_svg(picture)


def test_the_command_writes_small_files_and_no_others(tmp_path):
    pictures.save_pictures(tmp_path / "masks")
    written = {path.name: path.stat().st_size for path in (tmp_path / "masks").iterdir()}
    assert written.keys() == {path.name for path in pictures.FOLDER.iterdir()}
    assert sum(written.values()) < 1_000_000
