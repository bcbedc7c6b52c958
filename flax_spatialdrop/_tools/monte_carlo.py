"""Many stochastic passes: what a network with dropout left on is sure of."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp

from .._checks import check_callable, check_choice, check_key, check_whole, shown
from .._typing import Key

Outputs: TypeAlias = Literal["values", "logits", "probabilities"]
"""What a pass returns: any numbers, or those of a classifier, with the classes on the last axis."""


class MonteCarlo(NamedTuple):
    """What many passes agree on, and how far they differ.

    Attributes:
      mean: over the passes; of a classifier, of its probabilities.
      variance: the unbiased one, over num_samples - 1.
      entropy: of a classifier, that of the mean probabilities, in nats: all uncertainty.
      mutual_information: of a classifier, the part of `entropy` that comes from the passes not
        agreeing, in nats: the uncertainty that more data would take away.
    """

    mean: Any
    variance: Any
    entropy: jax.Array | None = None
    mutual_information: jax.Array | None = None


def monte_carlo(
    apply: Callable[[jax.Array], Any],
    key: Key,
    num_samples: int,
    *,
    batch_size: int | None = None,
    outputs: Outputs = "values",
) -> MonteCarlo:
    """Runs many passes, each with a key of its own, and returns their mean and spread.

        mean = sum_s y_s / S,   variance = sum_s |y_s - mean|^2 / (S - 1),   y_s = apply(key_s)

    and of a classifier, whose y_s are probabilities p_s over classes,

        entropy = H[mean],   mutual_information = H[mean] - sum_s H[p_s] / S,   H[p] = -sum p log p

    The keys are `jax.random.split(key, num_samples)`, and each pass has exactly the masks of a
    Python loop over them (and its values, where XLA rounds a batch of products as it rounds one).
    Put `jax.jit` around the call, and it is one vmapped program, compiled once. The outputs of all
    passes are held until they are averaged; a `batch_size` reduces the memory of the model itself.
    Passes that all agree are warned of, but not inside `jax.jit`, where they are not known.

    Args:
      apply: from a key to a floating or complex array, or a tree of them: the model with its
        dropout on, the rest of it in evaluation. It must not change any state: an NNX model is
        given `rngs=nnx.Rngs(dropout=key)`, or, where its layers hold streams, `apply` makes an
        nnx.clone of it and calls `nnx.reseed(clone, dropout=key)`.
      key: one JAX PRNG key, typed or legacy; consumed. Not of an rbg implementation: vmap would
        draw all passes with one of their keys.
      num_samples: how many passes, at least 2.
      batch_size: how many passes to run at a time, for less memory; None runs all at once.
      outputs: "values", or of a classifier "logits" or "probabilities", with the classes on the
        last axis. Of logits the softmax is taken first: all that is returned is about
        probabilities. These must be at least 0 and sum to 1, which is not checked.

    Returns:
      A MonteCarlo of mean, variance, entropy and mutual_information, the last two None for
      values. Half-precision outputs are averaged in float32.

    Raises:
      ValueError: for num_samples below 2, a batch_size below 1, unknown `outputs`, a missing key.
      TypeError: for a key of rbg, outputs that are not floating or complex, another type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import dropout, monte_carlo
      >>> x = jnp.ones((4, 3))
      >>> result = monte_carlo(lambda key: dropout(key, x, 0.5), jax.random.key(0), 100)
      >>> result.mean.shape, result.variance.shape
      ((4, 3), (4, 3))

    Reference: Gal & Ghahramani, Dropout as a Bayesian Approximation, 2016,
    https://arxiv.org/abs/1506.02142; the mutual information is that of Houlsby et al., Bayesian
    Active Learning for Classification and Preference Learning, 2011,
    https://arxiv.org/abs/1112.5745
    """
    check_callable(apply, "apply", "a function of a key")
    num_samples = check_whole(
        num_samples, "num_samples", least=2, unit="passes, for there to be a variance"
    )
    if batch_size is not None:
        batch_size = check_whole(batch_size, "batch_size", least=1, unit="pass at a time")
    check_choice(outputs, "outputs", get_args(Outputs))
    if key is None:
        raise ValueError(
            "monte_carlo draws its passes with a PRNG key: got key=None; pass one, such as "
            "jax.random.key(0)"
        )
    keys = jax.random.split(_check_mapped(check_key(key)), num_samples)
    if batch_size is None:
        samples = jax.vmap(apply)(keys)
    else:
        samples = jax.lax.map(apply, keys, batch_size=batch_size)
    if not jax.tree.leaves(samples):
        raise TypeError(f"apply must return an array, or a tree of them: got {shown(samples)}")
    samples = jax.tree.map(_check_output, samples)
    if outputs != "values":
        samples = _check_probabilities(samples, outputs)
    if _is_known_to_agree(samples):
        warnings.warn(
            f"all {num_samples} passes of monte_carlo returned the same values; is dropout on in "
            "apply, and does it use the key that it is given?",
            stacklevel=2,
        )
    return _spread(samples) if outputs == "values" else _spread_of_classes(samples)


@jax.jit
def _spread(samples: Any) -> MonteCarlo:
    return MonteCarlo(
        jax.tree.map(lambda y: y.mean(axis=0), samples),
        jax.tree.map(lambda y: y.var(axis=0, ddof=1), samples),
    )


@jax.jit
def _spread_of_classes(probabilities: jax.Array) -> MonteCarlo:
    mean, variance, *_ = _spread(probabilities)
    entropy = _entropy(mean)
    # Never below 0, which rounding alone could bring about.
    shared = jnp.maximum(entropy - _entropy(probabilities).mean(axis=0), jnp.zeros((), mean.dtype))
    return MonteCarlo(mean, variance, entropy, shared)


def _entropy(probabilities: jax.Array) -> jax.Array:
    return jax.scipy.special.entr(probabilities).sum(axis=-1)


def _check_output(y: jax.Array) -> jax.Array:
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        raise TypeError(
            f"apply must return floating or complex arrays, which are averaged: got dtype {y.dtype}"
        )
    return y.astype(jnp.float32) if jnp.finfo(y.dtype).bits < 32 else y


def _is_known_to_agree(samples: Any) -> bool:
    leaves = jax.tree.leaves(samples)
    if any(isinstance(y, jax.core.Tracer) or y.size == 0 for y in leaves):
        return False
    return all(bool((y == y[:1]).all()) for y in leaves)


def _check_probabilities(samples: Any, outputs: Outputs) -> jax.Array:
    if not isinstance(samples, jax.Array) or jnp.iscomplexobj(samples) or samples.ndim < 2:
        got = str(jax.tree.map(lambda y: f"{y.dtype}{list(y.shape[1:])}", samples))
        raise TypeError(
            f"with outputs={outputs!r} apply must return one real array with the classes on its "
            f"last axis: got {got if len(got) < 99 and got.isprintable() else shown(samples)}"
        )
    return jax.nn.softmax(samples) if outputs == "logits" else samples


def _check_mapped(key: jax.Array) -> jax.Array:
    implementation = str(jax.random.key_impl(key))
    if "rbg" in implementation:
        raise TypeError(
            "monte_carlo needs keys that jax.vmap keeps apart, such as those of threefry2x32, "
            f"JAX's default: got a key of {implementation}; vmap would draw all passes with one "
            "of them"
        )
    return key
