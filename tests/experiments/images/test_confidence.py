import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.images import confidence

PROBABILITIES = jax.nn.softmax(2 * jax.random.normal(jax.random.key(0), (500, 4)))
LABELS = jax.random.randint(jax.random.key(1), (500,), 0, 4)
TABLE, TRUTH = np.asarray(PROBABILITIES, np.float64), np.asarray(LABELS)
RIGHT = TABLE.argmax(1) == TRUTH


def test_accuracy_and_likelihood():
    assert float(confidence.accuracy(PROBABILITIES, LABELS)) == pytest.approx(RIGHT.mean())
    expected = -np.mean([np.log(row[label]) for row, label in zip(TABLE, TRUTH, strict=True)])
    found = confidence.negative_log_likelihood(PROBABILITIES, LABELS)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_probability_of_zero_gives_a_finite_likelihood():
    certain = jnp.array([[1.0, 0.0]])
    found = confidence.negative_log_likelihood(certain, jnp.array([1]))
    assert float(found) == pytest.approx(-np.log(np.finfo(np.float32).tiny), rel=1e-5)


def test_the_calibration_error_weighs_the_gap_of_each_bin():
    total = 0.0
    for index in range(15):
        low, high = index / 15, (index + 1) / 15
        inside = (TABLE.max(1) > low) & (TABLE.max(1) <= high)
        if inside.any():
            gap = RIGHT[inside].mean() - TABLE[inside].max(1).mean()
            total += inside.mean() * abs(gap)
    assert total > 0.1
    assert float(confidence.calibration_error(PROBABILITIES, LABELS)) == pytest.approx(
        total, rel=1e-4
    )


def test_honest_probabilities_have_a_small_calibration_error():
    probabilities = jnp.tile(PROBABILITIES, (20, 1))
    labels = jax.random.categorical(jax.random.key(2), jnp.log(probabilities))
    assert float(confidence.calibration_error(probabilities, labels)) < 0.02


def test_the_risk_of_the_most_confident_examples():
    risk = confidence.risk_coverage(PROBABILITIES, LABELS)
    assert risk.shape == (500,)
    assert float(risk[-1]) == pytest.approx(1 - RIGHT.mean())
    first = np.argsort(-TABLE.max(1))[:100]
    assert float(risk[99]) == pytest.approx(1 - RIGHT[first].mean())
