"""Monte Carlo dropout: estimates the uncertainty of a network from passes with dropout on."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp

from .._checks import check_callable, check_choice, check_key, check_whole, shown
from .._typing import Key

Outputs: TypeAlias = Literal["values", "logits", "probabilities"]
"""What a pass returns: any values, or the logits or probabilities of a classifier."""


class MonteCarlo(NamedTuple):
    """The mean and the spread of many passes.

    Attributes:
      mean: the mean over the passes. For a classifier, the mean of its probabilities.
      variance: the unbiased variance, with num_samples - 1 in the denominator.
      entropy: for a classifier, the entropy of the mean probabilities in nats: the whole
        uncertainty.
      mutual_information: for a classifier, the part of `entropy` that comes from differences
        between the passes, in nats: the uncertainty that more data would reduce.
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
    """Runs many passes, each with its own key, and returns their mean and spread.

        mean = sum_s y_s / S,   variance = sum_s |y_s - mean|^2 / (S - 1),   y_s = apply(key_s)

    and for a classifier, where y_s are probabilities p_s of classes,

        entropy = H[mean],   mutual_information = H[mean] - sum_s H[p_s] / S,   H[p] = -sum p log p

    The keys are `jax.random.split(key, num_samples)`. Each pass has the same masks as in a Python
    loop over the keys. Its values are the same too, unless XLA rounds a batched product
    differently. With `jax.jit` around the call, all passes are one vmapped program, which is
    compiled once. The outputs of all passes are held until they are averaged; `batch_size` reduces
    the memory that the model needs. If all passes return the same values, there is a warning, but
    not inside `jax.jit`, where the values are not known.

    Args:
      apply: a function from a key to a floating or complex array, or to a tree of such arrays. It
        runs the model with dropout on and all other layers in evaluation. It must not change any
        state. Pass an NNX model `rngs=nnx.Rngs(dropout=key)`. If its layers hold streams, make an
        nnx.clone in `apply`, and call `nnx.reseed(clone, dropout=key)`.
      key: a JAX PRNG key, typed or legacy, which the call consumes. Keys of rbg are not accepted,
        since under vmap all passes would draw with one of them.
      num_samples: the number of passes, at least 2.
      batch_size: the number of passes to run at a time, to save memory; None runs all at once.
      outputs: "values"; or, for a classifier, "logits" or "probabilities", with the classes on the
        last axis. Logits are converted to probabilities by softmax, and all results are about
        probabilities. Probabilities must be at least 0 and sum to 1, which is not checked.

    Returns:
      A MonteCarlo with mean, variance, entropy and mutual_information. The last two are None for
      "values". Half-precision outputs are averaged in float32.

    Raises:
      ValueError: if num_samples is below 2, batch_size is below 1, outputs is unknown, or the key
        is missing.
      TypeError: if the key is an rbg key, if apply returns arrays that are not floating or complex,
        or if an argument has the wrong type.

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
    spread: MonteCarlo = (_spread if outputs == "values" else _spread_of_classes)(samples)
    return spread


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
    # Rounding errors could make it negative.
    shared = jnp.maximum(entropy - _entropy(probabilities).mean(axis=0), jnp.zeros((), mean.dtype))
    return MonteCarlo(mean, variance, entropy, shared)


def _entropy(probabilities: jax.Array) -> jax.Array:
    return jax.scipy.special.entr(probabilities).sum(axis=-1)


def _check_output(y: jax.Array) -> jax.Array:
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        raise TypeError(
            f"apply must return floating or complex arrays, to be averaged: got dtype {y.dtype}"
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
