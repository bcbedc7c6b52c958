import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import optimizer, rate_schedule, settings, train
from experiments.errors import InputError
from experiments.localization import dataset, pretraining
from experiments.localization import task as localization
from experiments.localization.heat_maps import bumps
from experiments.localization.task import DISTANCES, Localization
from experiments.task import batches

# ml_collections loads a config file in a way that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def task(config):
    return Localization(config)


def test_a_keypoint_is_found_within_the_radius():
    """One is exact, and the others are 0.15 and 0.25 torsos of 16 pixels away."""
    places = np.full((3, 2), 20, np.float32)
    shifted = places + 16 * np.array([[0, 0], [0.15, 0], [0, 0.25]], np.float32)
    targets = np.concatenate([shifted, np.full((3, 1), 16, np.float32)], -1)

    @jax.jit
    def of_maps():
        maps = bumps(places, 12, 12)
        return Localization.points(maps, targets), Localization.losses(maps, targets)

    found, losses = of_maps()
    assert found.tolist() == [True, True, False]
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert 0 < losses[1] < losses[2]


def test_the_curve_of_detection_passes_through_the_score(task, monkeypatch):
    monkeypatch.setattr(localization, "SCENES_AT_ONCE", 5)  # so that a part of a batch is empty
    network, rate, cut = task.network("none"), jnp.float32(0), batches(task.data.test, 5)

    @jax.jit
    def scored():
        init = train.make_init(task, "none", optimizer.make(task.config.optimizer, 1))
        variables = init(0)[0].variables

        def predict(inputs, *, key=None):
            return network.apply(variables, *inputs, rate, deterministic=True)

        score = train.evaluate(variables, task, network, cut, rate)
        return score, task.measure(predict, rate, jax.random.key(0))

    score, measured = scored()
    curve = np.asarray(measured["curve"])
    at = round(dataset.RADIUS / dataset.FARTHEST * (DISTANCES - 1))
    assert curve[at] == pytest.approx(float(score), abs=1e-6)
    assert np.all(np.diff(curve) >= 0)
    assert curve[0] == 0 < curve[-1]
    shown = task.data.record["shown"]
    assert measured["keypoints"].shape == np.shape([scene["keypoints"] for scene in shown])


def test_all_seeds_start_with_the_pretrained_trunk(task):
    init = jax.jit(train.make_init(task, "Dropout", optimizer.make(task.config.optimizer, 1)))
    one, other = (init(seed)[0].params for seed in (0, 1))
    before = task.config.pretraining
    trunk = pretraining.trunk("digits", "", before.images, before.epochs, task.config.features)
    for params in (one, other):
        jax.tree.map(np.testing.assert_array_equal, params["trunk"], trunk)
    assert not np.array_equal(one["Dense_0"]["kernel"], other["Dense_0"]["kernel"])


def test_the_rate_of_one_drop_block_grows_to_the_end(task):
    steps = task.config.epochs * train.steps_per_epoch(
        len(task.data.train.targets), task.config.batch_size
    )
    for name, share in (("DropBlock", 1), ("DropBlock growing", 0.5)):
        schedule = task.rate_schedule(name)
        assert rate_schedule.scheduled(schedule, 0.2, steps // 2) == pytest.approx(0.2 * share)
        assert rate_schedule.scheduled(schedule, 0.2, steps) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("", {"width": 0}, "config.width must be at least 1: got 0"),
        ("data", {"side": 56}, "config.data.side must be a multiple of 16 and at most 160: got 56"),
        (
            "data",
            {"side": 176},
            "config.data.side must be a multiple of 16 and at most 160: got 176",
        ),
        (
            "data",
            {"source": "faces"},
            "config.data.source must be one of fashion-mnist, mnist, digits: got 'faces'",
        ),
        ("pretraining", {"images": 0}, "config.pretraining.images must be at least 1: got 0"),
    ],
)
def test_invalid_fields(config, part, fields, message):
    (config[part] if part else config).update(fields)
    with pytest.raises(InputError) as raised:
        settings.check(config)
    assert str(raised.value) == message
