"""Tasks whose targets are classes: their loss, and the accuracy or the perplexity as score."""

import jax
import jax.numpy as jnp
import optax

from .task import Array, Metric, Task


class Categorical(Task):
    """A task whose outputs are a logit of every class. The loss is the cross-entropy."""

    @staticmethod
    def losses(outputs: jax.Array, targets: Array) -> jax.Array:
        """Returns the cross-entropy of every target."""
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


class Classifying(Categorical):
    """A task whose score is the accuracy."""

    @classmethod
    def points(cls, outputs: jax.Array, targets: Array) -> jax.Array:
        """Returns 1 for every target whose class is predicted, and 0 for the others."""
        return (outputs.argmax(-1) == targets).astype(jnp.float32)

    @staticmethod
    def score(mean_points: jax.Array) -> jax.Array:
        """Returns the accuracy."""
        return mean_points


class LanguageModeling(Categorical):
    """A task whose score is the perplexity. The classes are symbols."""

    @staticmethod
    def score(mean_points: jax.Array) -> jax.Array:
        """Returns the perplexity."""
        return jnp.exp(mean_points)


def accuracy(baseline: str) -> Metric:
    """Returns the metric of a task of classification, with the name of its baseline."""
    return Metric(
        name="accuracy",
        unit="%",
        difference_unit="points",
        scale=100,
        digits=1,
        higher_is_better=True,
        baseline=baseline,
    )


def perplexity(unit: str, baseline: str) -> Metric:
    """Returns the metric of a task of language modeling, with the name of its baseline."""
    return Metric(
        name="perplexity",
        unit=unit,
        difference_unit=unit,
        scale=1,
        digits=2,
        higher_is_better=False,
        baseline=baseline,
    )
