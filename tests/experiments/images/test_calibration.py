from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.mc_calibration import get_config
from experiments.errors import InputError
from experiments.images import calibration, calibration_figure, confidence, shifts, sources
from experiments.images.calibration import Calibration


@pytest.fixture(scope="module")
def task():
    config = get_config("smoke")
    config.passes, config.data.measured_images = 3, 70
    return Calibration(config)


@pytest.fixture(scope="module")
def seen():
    """The inputs of all calls of `predict`."""
    return []


@pytest.fixture(scope="module")
def measured(task, seen):
    def predict(inputs, *, key=None):
        """Scores that depend on the image, and with a key on the key."""
        [images] = inputs
        jax.debug.callback(lambda images: seen.append(np.asarray(images)), images)
        scores = 3 * images.reshape(len(images), -1)[:, 20:30]
        return scores if key is None else scores + jax.random.normal(key, scores.shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "IMAGES_AT_ONCE", 40)  # does not divide 70
        measure = jax.jit(partial(task.measure, predict, jnp.float32(0.5)))
        return jax.device_get(measure(jax.random.key(3)))


def test_one_pass_is_of_the_first_clean_images_of_the_test(task, measured):
    scores = 3 * task.data.test.inputs[0][:70].reshape(70, -1)[:, 20:30]
    labels = jnp.asarray(task.data.test.targets[:70])
    expected = confidence.negative_log_likelihood(jax.nn.softmax(scores), labels)
    np.testing.assert_allclose(measured["NLL, clean, one pass"], expected, rtol=1e-3)
    risk = confidence.risk_coverage(jax.nn.softmax(scores), labels)
    np.testing.assert_allclose(measured["area, clean, one pass"], risk.mean(), rtol=1e-3)
    assert measured["risk, clean, one pass"].shape == (20,)
    np.testing.assert_allclose(measured["risk, clean, one pass"][-1], risk[-1], rtol=1e-3)


def test_shifted_is_the_mean_of_the_shifts(measured):
    for quantity in ("accuracy", "NLL", "ECE", "area", "risk"):
        of_shifts = [measured[f"{quantity}, {shift}, passes"] for shift in shifts.SHIFTS]
        np.testing.assert_allclose(
            measured[f"{quantity}, shifted, passes"], np.mean(of_shifts, 0), rtol=1e-5
        )
        if quantity == "NLL":
            assert len({float(value) for value in of_shifts}) == 3


def test_passes_differ_from_one_pass_and_every_name_is_a_measure(measured):
    assert measured["NLL, clean, passes"] != measured["NLL, clean, one pass"]
    assert set(Calibration.measures) <= set(measured)
    assert len(Calibration.measures) == 16
    assert Calibration.measures["ECE, clean, passes"].title == "ECE (clean, passes) in %"


def test_the_networks_see_the_shifts_of_the_original_images(task, measured, seen):
    record, original = task.data.record, sources.read("digits").test.images[:70]
    mean, deviation = record["mean"], record["deviation"]
    shown = np.concatenate(seen)[..., 0] * deviation + mean
    for images in (original, *shifts.shifted(original).values()):
        first = images[0].astype(float)
        assert np.isclose(shown, first, atol=0.01).all((1, 2)).any()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"passes": 1}, "config.passes must be at least 2: got 1"),
        (
            {"data": {"measured_images": -1}},
            "config.data.measured_images must be at least 0: got -1",
        ),
    ],
)
def test_a_wrong_field_gets_one_sentence(field, message):
    config = get_config("smoke")
    config.update(field)
    with pytest.raises(InputError) as caught:
        Calibration.check(config)
    assert str(caught.value) == message


def test_the_figure_shows_every_regularizer(measured):
    values = {name: value.tolist() for name, value in measured.items()}
    runs = [
        {"seed": seed, "rate": 0.1, "diverged": False, "test_score": 0.5, "measures": values}
        | {"validation_score": 0.5}
        for seed in range(2)
    ]
    regularizers = {
        name: {"compared_to": plain, "chosen_rate": 0.1, "seconds": 1.0, "runs": runs}
        for name, plain in (("none", None), ("Dropout", "none"))
    }
    metrics = {name: metric._asdict() for name, metric in Calibration.measures.items()}
    drawn = calibration_figure.draw({"measures": metrics, "regularizers": regularizers})
    left, middle, right = drawn.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["none", "Dropout 0.1"]
    assert left.get_xlabel() == "nats"
    assert len(left.containers) == len(middle.containers) == 8
    assert [line.get_linestyle() for line in right.get_lines()] == ["-", ":", "-"]
