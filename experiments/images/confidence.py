"""Measures of the probabilities of a classifier: are they right, and are they honest?

In all functions, `probabilities` are [example, class] and `labels` [example].
"""

import jax
import jax.numpy as jnp

BINS = 15


def accuracy(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the share of examples whose label has the highest probability."""
    return correct(probabilities, labels).mean()


def negative_log_likelihood(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean of -log of the label's probability, in nats."""
    of_label = jnp.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return -jnp.log(jnp.maximum(of_label, jnp.finfo(of_label.dtype).tiny)).mean()


def calibration_error(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the expected calibration error (Guo et al., 2017).

    Examples are put into bins of equal width by the highest probability. The error is the mean
    difference between it and the accuracy of a bin, weighted by the examples of the bin.
    """
    confidence, right = probabilities.max(1), correct(probabilities, labels)
    bins = jnp.clip(jnp.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gaps = jnp.zeros(BINS).at[bins].add(right - confidence)
    return jnp.abs(gaps).sum() / len(labels)


def risk_coverage(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the error among the k examples with the highest confidence, for each k from 1."""
    order = jnp.argsort(probabilities.max(1), descending=True)
    wrong = 1 - correct(probabilities, labels)[order]
    return jnp.cumsum(wrong) / jnp.arange(1, len(labels) + 1)


def correct(probabilities: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns 1 for every example whose label has the highest probability, and 0 for others."""
    return (probabilities.argmax(1) == labels).astype(jnp.float32)
