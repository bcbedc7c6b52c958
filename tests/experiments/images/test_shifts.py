import numpy as np

from experiments.images.shifts import shifted


def test_the_shifts_do_not_change_between_calls_and_keep_the_form():
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    first, again = shifted(images), shifted(images)
    assert list(first) == ["rotation", "noise", "blur"]
    for name, shift in first.items():
        assert (shift.dtype, shift.shape) == (images.dtype, images.shape)
        assert (shift == again[name]).all()
        assert (shift != images).any((1, 2)).all()


def test_images_are_turned_to_both_sides():
    line = np.zeros((20, 28, 28), np.uint8)
    line[:, 2:26, 13:15] = 255  # from top to bottom
    heights = np.arange(28)[:, None] - 13.5
    sides = np.arange(28)[None] - 13.5
    turned = shifted(line)["rotation"].astype(float)
    slopes = (turned * heights * sides).sum((1, 2)) / (turned * heights**2).sum((1, 2))
    np.testing.assert_allclose(abs(slopes), np.tan(np.radians(20)), rtol=0.1)
    assert 0 < (slopes > 0).sum() < 20


def test_noise_has_its_deviation_and_each_pixel_its_own():
    gray = np.full((50, 28, 28), 128, np.uint8)
    noise = shifted(gray)["noise"].astype(float) - 128
    np.testing.assert_allclose(noise.std(), 49.5, rtol=0.02)  # 50, cut off at 0 and 255
    assert abs(np.corrcoef(noise[:, 0, 0], noise[:, 0, 1])[0, 1]) < 0.4


def test_blur_keeps_the_mean_and_takes_contrast_within_each_image():
    images = np.zeros((2, 28, 28), np.uint8)
    images[0, ::2] = 200
    blurred = shifted(images)["blur"]
    assert abs(blurred[0].mean() - 100) < 5
    assert blurred[0, 5:-5].std() < 10
    assert (blurred[1] == 0).all()
