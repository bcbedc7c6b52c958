import numpy as np
import pytest

from experiments.localization.figures import KEYPOINTS, Placement, pose

SPOT = (0.25, -0.375)
"""A place to the left of the middle and below it."""


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.5, -2.0])
def test_a_garment_is_pasted_where_its_places_are(angle, mirrored):
    garment = np.zeros((16, 16), np.float32)
    garment[11:13, 1:3] = 1  # around the spot
    scene = np.full((40, 40), 0.25, np.float32)
    place = Placement(np.array([18.0, 21.0]), 16, angle, mirrored)
    place.paste(scene, garment, 0.75)
    light = scene - 0.25
    center = np.einsum("ij,ijk->k", light, np.moveaxis(np.indices(scene.shape), 0, -1))
    np.testing.assert_allclose(center / light.sum(), place.in_scene(np.array(SPOT)), atol=0.1)
    assert scene.min() == pytest.approx(0.25)
    assert scene.max() <= 0.75


def test_a_garment_that_is_partly_outside_is_cut():
    whole, part = np.zeros((30, 30), np.float32), np.zeros((20, 20), np.float32)
    garment = np.random.default_rng(0).uniform(0.1, 1, (8, 8)).astype(np.float32)
    Placement(np.array([19.0, 11.0]), 9, 0.3).paste(whole, garment, 1.0)
    Placement(np.array([19.0, 1.0]), 9, 0.3).paste(part, garment, 1.0)
    np.testing.assert_allclose(part, whole[:20, 10:], atol=1e-5)
    assert part.any()


def test_keypoints_are_inside_and_left_is_left():
    for seed in range(50):
        figure = pose(np.random.default_rng(seed), 16.0, 48)
        assert np.all((figure.keypoints >= 0) & (figure.keypoints <= 47))
        named = dict(zip(KEYPOINTS, figure.keypoints, strict=True))
        for part in ("shoulder", "foot"):
            assert named[f"left {part}"][1] < named[f"right {part}"][1]
        assert named["collar"][0] < named["waist"][0] < named["left foot"][0]
        shoe = figure.parts[0]
        np.testing.assert_allclose(named["left foot"], shoe.center)
