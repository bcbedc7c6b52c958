import numpy as np
from sklearn.datasets import load_sample_image

from experiments.correlation import photos


def test_tiles_are_of_one_half_of_a_photo_each():
    maps = photos.tiles(4, 5, 3, np.random.default_rng(0))
    for half, tiles in enumerate(maps):
        assert tiles.shape == (4, 5, 5, 3)
        for index, tile in enumerate(tiles):
            photo = load_sample_image(photos.PHOTOS[index % 2]) / np.float32(255)
            found = np.argwhere((photo == tile[0, 0]).all(-1))
            cuts = [photo[r : r + 13 : 3, c : c + 13 : 3] for r, c in found]
            equal = [cut.shape == tile.shape and (cut == tile).all() for cut in cuts]
            columns = {column for (_, column), same in zip(found, equal, strict=True) if same}
            middle = photo.shape[1] // 2
            assert columns
            assert any((column >= middle) == bool(half) for column in columns)


def test_seeds_cut_other_tiles():
    first, again, other = (
        photos.tiles(2, 8, 1, np.random.default_rng(s)).fitted for s in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()
