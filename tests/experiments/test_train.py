import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import train
from experiments.data import Split, batches
from experiments.models import Tagger
from experiments.vocabulary import UNSEEN_TAG

MODEL = Tagger(7, 3, 8, 8, "SpatialDropout1D")
OPTIMIZER = optax.adam(1e-2)


def split(time=5, sentences=9):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 6, sentences).astype(np.int32)
    words = rng.integers(1, 7, (sentences, time)).astype(np.int32)
    mask = np.arange(time) < lengths[:, None]
    return Split(words * mask, words % 3 * mask, lengths)


def pad(data, time):
    wide = [np.pad(array, [(0, 0), (0, time)]) for array in data[:2]]
    return Split(*wide, data.lengths)


@pytest.fixture(scope="module")
def start():
    return train.make_init(MODEL, OPTIMIZER, split())(jax.random.key(0))


def test_padding_counts_nothing_in_the_loss(start):
    def loss(data):
        # timesteps share the mask of SpatialDropout1D, so it is the same at any length
        return train.batch_loss(start.params, MODEL, data, jnp.float32(0.5), jax.random.key(1))

    assert loss(split()) == pytest.approx(float(loss(pad(split(), 6))), rel=1e-5)


def test_padding_and_empty_sentences_count_nothing_in_the_accuracy(start):
    data = split()
    expected = train.evaluate(MODEL, start.params, batches(data, 9))
    assert 0 < expected < 1
    assert train.evaluate(MODEL, start.params, batches(pad(data, 6), 4)) == expected


def test_the_loss_by_hand(start):
    data = split()
    logits = np.asarray(
        MODEL.apply(start.params, data.words, data.lengths, jnp.float32(0), deterministic=True)
    )
    losses = [
        np.log(np.exp(logits[s, t]).sum()) - logits[s, t, data.tags[s, t]]
        for s, length in enumerate(data.lengths)
        for t in range(length)
    ]
    loss = train.batch_loss(start.params, MODEL, data, jnp.float32(0), jax.random.key(1))
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_tag_unseen_in_training_is_an_error(start):
    data = split()
    unseen = data._replace(tags=np.full_like(data.tags, UNSEEN_TAG))
    assert train.evaluate(MODEL, start.params, batches(unseen, 9)) == 0


def test_training_learns(start):
    epoch = jax.jit(train.make_epoch(MODEL, OPTIMIZER, 3, patience=100))
    state = start
    losses = []
    for _ in range(30):
        state, metrics = epoch(state, jnp.float32(0.1), split(), batches(split(), 9))
        losses.append(float(metrics.loss))
    assert losses[-1] < losses[0] / 2
    assert state.best_accuracy > 0.9


def test_the_best_epoch_is_kept_and_a_run_out_of_patience_is_frozen(start):
    data = split()
    # No prediction can be right, so the first epoch is the best and two more use up patience.
    hopeless = batches(data._replace(tags=np.full_like(data.tags, UNSEEN_TAG)), 9)
    epoch = jax.jit(train.make_epoch(MODEL, OPTIMIZER, 3, patience=2))
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
