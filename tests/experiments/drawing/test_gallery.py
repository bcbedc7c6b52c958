import jax
import matplotlib.image
import numpy as np

from experiments.drawing import gallery


def outputs(panels, x):
    keys = jax.random.split(jax.random.key(0), len(panels))
    return {
        panel.title: np.asarray(panel.apply(key, x))
        for key, panel in zip(keys, panels, strict=True)
    }


def test_the_photo_and_its_features_lie_between_0_and_1():
    photo = gallery.photo()
    features = gallery.feature_map(photo)
    assert photo.shape == (1, 214, 320, 3)
    assert features.shape[-1] == 4
    for x in (photo, features):
        assert 0 <= x.min() < x.max() <= 1
    assert (np.asarray(features).std((1, 2)) > 0).all()


def test_each_panel_drops_what_it_says():
    photo = jax.numpy.ones((1, 100, 160, 3))
    found = outputs(gallery.PHOTO_PANELS, photo)
    assert (found["the photo"] == 1).all()
    zeros = {title: (y == 0).mean() for title, y in found.items()}
    assert abs(zeros["dropout"] - gallery.RATE) < 0.02
    assert abs(zeros["drop_block"] - gallery.RATE) < 0.15
    pixels = found["dropout, broadcast_dims=(-1,)"]
    assert (pixels == pixels[..., :1]).all()
    channels = found["spatial_dropout_2d"]
    assert (channels == channels[:, :1, :1]).all()
    blocks = found["drop_block, per_channel=False"] == 0
    assert (blocks == blocks[..., :1]).all()
    assert blocks.any()
    assert found["gaussian_dropout"].std() > 0.5
    ramp = photo * jax.numpy.arange(160.0)[None, None, :, None]
    cut = np.asarray(outputs(gallery.PHOTO_PANELS, ramp)['cutout, fill="mean"'] != ramp)
    assert 0.9 < cut.sum() / (90 * 120 * 3) <= 1


def test_the_strip_drops_values_channels_and_blocks():
    features = jax.numpy.ones((1, 26, 39, 4))
    found = outputs(gallery.FEATURE_PANELS, features)
    assert (found["the feature map"] == 1).all()
    shares = {title: (y == 0).mean((0, 1, 2)) for title, y in found.items()}
    assert set(shares["spatial_dropout_2d"]) <= {0, 1}
    for title in ("dropout", "drop_block"):
        assert ((shares[title] > 0) & (shares[title] < 1)).all()


def test_the_picture_is_drawn(tmp_path):
    gallery.save_gallery(tmp_path / "gallery.png", dpi=50)
    picture = matplotlib.image.imread(tmp_path / "gallery.png")
    assert picture.shape[0] > 300
    assert picture.std() > 0.1
