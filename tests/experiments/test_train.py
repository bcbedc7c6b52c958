import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from configs.pos_tagging import get_config
from experiments import runs, train
from experiments.tagging.task import Tagging
from experiments.tagging.vocabulary import UNSEEN_TAG
from experiments.task import Data, Split, batches

OPTIMIZER = optax.adam(1e-2)
RECORD = {"words": 7, "tags": 3}


class Small(Tagging):
    """Tagging of random sentences, in which a tag depends only on its word."""

    @staticmethod
    def load(data):
        return Data(split(), split(), split(), 0.0, "", RECORD)


def split(time=5, sentences=9):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 6, sentences).astype(np.int32)
    words = rng.integers(1, 7, (sentences, time)).astype(np.int32)
    mask = np.arange(time) < lengths[:, None]
    return Split((words * mask, lengths), words % 3 * mask, mask)


def pad(data, time):
    words, lengths = data.inputs
    arrays = (words, data.targets, data.counted)
    words, tags, mask = (np.pad(array, [(0, 0), (0, time)]) for array in arrays)
    return Split((words, lengths), tags, mask)


def make_task(patience=100):
    config = get_config("smoke")
    config.update({"features": 8, "hidden": 8, "batch_size": 3, "patience": patience})
    return Small(config)


TASK = make_task()
MODEL = TASK.network("SpatialDropout1D")


@pytest.fixture(scope="module")
def start():
    return train.make_init(TASK, "SpatialDropout1D", OPTIMIZER)(0)[0]


def loss(start, data, rate):
    function = train.make_loss(MODEL, TASK.losses)
    return function(start.variables, jnp.float32(rate), data, jax.random.key(1))[0]


def score_of(variables, rate, batches):
    return train.evaluate(variables, TASK, MODEL, batches, rate)


def evaluate(start, data, size):
    return score_of(start.variables, jnp.float32(0.5), batches(data, size))


def test_padding_counts_nothing_in_the_loss(start):
    # All steps share the mask of SpatialDropout1D, so it does not depend on the length.
    padded = loss(start, pad(split(), 6), 0.5)
    assert loss(start, split(), 0.5) == pytest.approx(float(padded), rel=1e-5)


def test_padding_and_empty_sentences_count_nothing_in_the_accuracy(start):
    data = split()
    expected = evaluate(start, data, 9)
    assert 0 < expected < 1
    assert evaluate(start, pad(data, 6), 4) == pytest.approx(float(expected))


def test_the_loss_by_hand(start):
    data = split()
    logits = np.asarray(train.predict(start.variables, MODEL, data.inputs, jnp.float32(0.5)))
    losses = [
        np.log(np.exp(logits[s, t]).sum()) - logits[s, t, data.targets[s, t]]
        for s, length in enumerate(data.inputs[1])
        for t in range(length)
    ]
    assert float(loss(start, data, 0)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_tag_unseen_in_training_is_an_error(start):
    data = split()
    unseen = data._replace(targets=np.full_like(data.targets, UNSEEN_TAG))
    assert evaluate(start, unseen, 9) == 0


def test_training_learns(start):
    step = train.make_step(train.make_loss(MODEL, TASK.losses), OPTIMIZER)
    steps = jax.jit(train.make_steps(step))
    order = jax.jit(train.make_order(9, 3))
    state, means = start, []
    for epoch in range(30):
        indices, keys = order(0, epoch)
        batches = jax.tree.map(lambda array, indices=indices: jnp.asarray(array)[indices], split())
        state, measured = steps(state, jnp.float32(0.1), batches, keys)
        means.append(measured.loss.mean())
    assert means[-1] < means[0] / 2
    assert state.step == 90
    assert evaluate(state, split(), 9) > 0.9


def test_a_step_measures_its_gradients_before_they_are_clipped():
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))
    params = {"a": jnp.ones(2), "b": jnp.ones(1)}
    state = train.TrainState(jnp.int32(0), params, {}, optimizer.init(params))

    def loss(variables, rate, batch, key):
        return 3 * variables["params"]["a"].sum() + 4 * variables["params"]["b"].sum(), {}

    _, measured = train.make_step(loss, optimizer)(state, 0.0, None, None)
    np.testing.assert_allclose(measured, [3 * 2 + 4, (2 * 3**2 + 4**2) ** 0.5])


class Normed(nn.Module):
    """Batch norm of numbers, then a weight."""

    @nn.compact
    def __call__(self, x, rate, *, deterministic):
        norm = nn.BatchNorm(use_running_average=deterministic, momentum=0.5)
        return x @ self.param("weight", nn.initializers.ones, (3,)) + norm(x[:, :1])[:, 0]


def test_a_step_updates_batch_statistics_and_an_evaluation_uses_them():
    x = np.random.default_rng(0).normal(3.0, size=(8, 3)).astype(np.float32)
    model, zeros = Normed(), jnp.zeros(8)
    state = train.first_state(model, (x,), OPTIMIZER, jax.random.key(0))
    step = train.make_step(train.make_loss(model, lambda y, z: (y - z) ** 2), OPTIMIZER)
    batch = Split((x,), zeros, zeros == 0)
    new, _ = step(state, jnp.float32(0.0), batch, jax.random.key(1))
    kept = new.variables["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(kept["mean"], 0.5 * x[:, :1].mean(0), rtol=1e-5)
    np.testing.assert_allclose(kept["var"], 0.5 + 0.5 * x[:, :1].var(0), rtol=1e-5)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for key in (None, jax.random.key(2)):  # also where dropout is drawn
        together = train.predict(new.variables, model, (x,), jnp.float32(0.0), key)
        alone = train.predict(new.variables, model, (x[:1],), jnp.float32(0.0), key)
        np.testing.assert_allclose(alone, together[:1], rtol=1e-6)


class Pretrained(Small):
    """Starts from the sum of the parameters that the network drew and 1."""

    def first_params(self, params):
        return jax.tree.map(lambda leaf: leaf + 1, params)


def test_a_task_may_change_the_first_parameters():
    drawn, changed = (
        train.make_init(task, "none", OPTIMIZER)(3) for task in (TASK, Pretrained(TASK.config))
    )
    for one, other in ((drawn[0].params, changed[0].params), (drawn[1], changed[1])):
        one, other = (getattr(tree, "variables", tree) for tree in (one, other))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a + 1, b), one, other)


def test_an_epoch_shuffles_and_leaves_out_what_fills_no_batch():
    order = train.make_order(10, 3)
    (one, keys), (two, others) = order(0, 1), order(0, 2)
    for indices in (one, two):
        assert indices.shape == (3, 3)
        assert len(set(indices.ravel().tolist())) == 9
    assert (one != two).any()
    assert len({tuple(key) for key in np.concatenate([keys, others]).tolist()}) == 6
    assert (train.make_order(10, 3)(1, 1)[0] != one).any()
    assert train.make_order(2, 3)(0, 1)[0].shape == (1, 2)  # all that there is


def test_the_best_epoch_is_kept_and_a_run_out_of_patience_is_frozen(start):
    data = split()
    # No prediction can be right, so the first epoch is the best, and the run ends two epochs later.
    hopeless = batches(data._replace(targets=np.full_like(data.targets, UNSEEN_TAG)), 9)
    validate = jax.jit(train.make_validate(make_task(patience=2), score_of))
    best = train.Best(start.variables, jnp.float32(-jnp.inf), jnp.int32(0))
    rate, found = jnp.float32(0.1), []
    for epoch, part in enumerate((hopeless, hopeless, hopeless, batches(data, 9)), start=1):
        variables = jax.tree.map(lambda leaf, factor=epoch: factor * leaf, start.variables)
        best, score = validate(variables, best, rate, epoch, part)
        found.append((int(best.epoch), float(best.score)))
    assert found == [(1, 0.0)] * 4
    assert score > 0  # it came too late
    jax.tree.map(np.testing.assert_array_equal, best.variables, start.variables)


@pytest.mark.parametrize(("epoch", "out"), [(1, False), (2, False), (3, True), (4, True)])
def test_patience(epoch, out):
    assert runs.out_of_patience(epoch, 1, 2) == out


def test_weights_that_are_no_numbers_give_no_score(start):
    validate = train.make_validate(TASK, score_of)
    best = train.Best(start.variables, jnp.float32(-jnp.inf), jnp.int32(0))
    variables = jax.tree.map(lambda leaf: leaf * jnp.nan, start.variables)
    kept, score = validate(variables, best, jnp.float32(0.1), 1, batches(split(), 9))
    assert np.isnan(score)
    assert int(kept.epoch) == 0
