import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.pos_tagging import get_config
from experiments import train
from experiments.tagging.task import Tagging
from experiments.tagging.vocabulary import UNSEEN_TAG
from experiments.task import Data, Split, batches

OPTIMIZER = optax.adam(1e-2)
RECORD = {"words": 7, "tags": 3}


class Small(Tagging):
    """Tagging of random sentences, in which a tag depends only on its word."""

    @staticmethod
    def load(config):
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
    return train.make_init(TASK, "SpatialDropout1D", OPTIMIZER)(jax.random.key(0))


def loss(start, data, rate):
    return train.batch_loss(start.params, TASK, MODEL, data, jnp.float32(rate), jax.random.key(1))


def evaluate(start, data, size):
    return train.evaluate(start.params, TASK, MODEL, batches(data, size), jnp.float32(0.5))


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
    logits = np.asarray(train.predict(start.params, MODEL, data, jnp.float32(0.5)))
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
    epoch = jax.jit(train.make_epoch(TASK, "SpatialDropout1D", OPTIMIZER))
    state = start
    losses = []
    for _ in range(30):
        state, metrics = epoch(state, jnp.float32(0.1), split(), batches(split(), 9))
        losses.append(float(metrics.loss))
    assert losses[-1] < losses[0] / 2
    assert state.best_score > 0.9


def test_the_best_epoch_is_kept_and_a_run_out_of_patience_is_frozen(start):
    data = split()
    # No prediction can be right, so the first epoch is the best, and the run stops two epochs
    # later.
    hopeless = batches(data._replace(targets=np.full_like(data.targets, UNSEEN_TAG)), 9)
    epoch = jax.jit(train.make_epoch(make_task(patience=2), "SpatialDropout1D", OPTIMIZER))
    states = [start]
    for _ in range(5):
        states.append(epoch(states[-1], jnp.float32(0.1), data, hopeless)[0])
    assert [int(state.epoch) for state in states] == [0, 1, 2, 3, 3, 3]
    assert [int(state.best_epoch) for state in states] == [0, 1, 1, 1, 1, 1]
    assert [bool(train.out_of_patience(s, 2)) for s in states] == [False] * 3 + [True] * 3
    _assert_equal(states[5].best_params, states[1].params)
    _assert_equal(states[5].params, states[3].params)
    _assert_equal(states[5].opt_state, states[3].opt_state)
    with pytest.raises(AssertionError):
        _assert_equal(states[3].params, states[1].params)


def test_a_fresh_run_has_patience(start):
    assert not train.out_of_patience(start, 1)


def _assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)
