"""One training run as a pure function, so that a single program serves every rate and seed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from .data import Split

Params = Any


class RunState(NamedTuple):
    """All that a run carries from epoch to epoch."""

    key: jax.Array
    params: Params
    opt_state: optax.OptState
    best_params: Params
    best_accuracy: jax.Array
    best_epoch: jax.Array
    epoch: jax.Array


class Metrics(NamedTuple):
    """What an epoch reports: mean of its batches' losses, and the validation accuracy after it.

    A batch's loss is the mean over its tokens, so tokens of short batches weigh a little more.
    """

    loss: jax.Array | np.ndarray
    accuracy: jax.Array | np.ndarray


def make_init(
    model: nn.Module, optimizer: optax.GradientTransformation, data: Split
) -> Callable[[jax.Array], RunState]:
    """Returns `init(key) -> RunState`; the same key gives every regularizer the same start."""

    def init(key: jax.Array) -> RunState:
        words, lengths = jnp.asarray(data.words[:1]), jnp.asarray(data.lengths[:1])
        params = model.init(
            jax.random.fold_in(key, 0), words, lengths, jnp.float32(0), deterministic=True
        )
        zero = jnp.int32(0)
        return RunState(key, params, optimizer.init(params), params, jnp.float32(-1), zero, zero)

    return init


def steps_per_epoch(sentences: int, batch_size: int) -> int:
    """Returns how many full batches the training part has; one, if it is smaller than a batch."""
    return max(1, sentences // batch_size)


def make_epoch(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    patience: int,
) -> Callable[[RunState, jax.Array, Split, Split], tuple[RunState, Metrics]]:
    """Returns `epoch(state, rate, train, validation) -> state, metrics`.

    `rate` is an ordinary argument, so one compile serves all rates, and `jax.vmap` over state and
    rate gives the same runs side by side. A run out of patience is frozen: it comes back as it was.
    Each epoch shuffles the sentences anew and leaves out those that its last batch cannot fill.
    """

    def epoch(
        state: RunState, rate: jax.Array, train: Split, validation: Split
    ) -> tuple[RunState, Metrics]:
        key = jax.random.fold_in(state.key, state.epoch + 1)
        shuffle_key, dropout_key = jax.random.split(key)
        sentences = len(train.lengths)
        size = min(batch_size, sentences)
        steps = steps_per_epoch(sentences, batch_size)
        order = jax.random.permutation(shuffle_key, sentences)
        order = order[: steps * size].reshape(steps, size)

        def step(carry, inputs):
            params, opt_state = carry
            indices, step_key = inputs
            batch = jax.tree.map(lambda array: array[indices], train)
            loss, grads = jax.value_and_grad(batch_loss)(params, model, batch, rate, step_key)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        (params, opt_state), losses = jax.lax.scan(
            step, (state.params, state.opt_state), (order, jax.random.split(dropout_key, steps))
        )
        accuracy = evaluate(model, params, validation)
        better = accuracy > state.best_accuracy
        new = state._replace(
            params=params,
            opt_state=opt_state,
            best_params=_where(better, params, state.best_params),
            best_accuracy=jnp.where(better, accuracy, state.best_accuracy),
            best_epoch=jnp.where(better, state.epoch + 1, state.best_epoch),
            epoch=state.epoch + 1,
        )
        frozen = out_of_patience(state, patience)
        return _unless_frozen(frozen, state, new), Metrics(losses.mean(), accuracy)

    return epoch


def out_of_patience(state: RunState, patience: int) -> jax.Array:
    """Tells whether the last `patience` epochs all failed to beat the best one."""
    return state.epoch - state.best_epoch >= patience


def batch_loss(
    params: Params, model: nn.Module, batch: Split, rate: jax.Array, key: jax.Array
) -> jax.Array:
    """Cross-entropy per token; padding counts nothing."""
    logits = model.apply(
        params, batch.words, batch.lengths, rate, deterministic=False, rngs={"dropout": key}
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.tags)
    mask = is_word(batch)
    return jnp.where(mask, losses, 0.0).sum() / mask.sum().astype(jnp.float32)


def evaluate(model: nn.Module, params: Params, batches: Split) -> jax.Array:
    """Share of words tagged right, over batches of sentences; padding counts nothing."""

    def count(batch: Split) -> tuple[jax.Array, jax.Array]:
        logits: Any = model.apply(
            params, batch.words, batch.lengths, jnp.float32(0), deterministic=True
        )
        mask = is_word(batch)
        return ((logits.argmax(-1) == batch.tags) & mask).sum(), mask.sum()

    right, words = jax.lax.map(count, batches)
    return right.sum().astype(jnp.float32) / words.sum().astype(jnp.float32)


def is_word(batch: Split) -> jax.Array:
    """True where a cell of [sentence, time] holds a word, False where it is padding."""
    return jnp.arange(batch.words.shape[1])[None] < batch.lengths[:, None]


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _unless_frozen(frozen: jax.Array, old: RunState, new: RunState) -> RunState:
    """Returns the new state, or for a frozen run the old one."""

    def select(a: jax.Array, b: jax.Array) -> jax.Array:
        # The key never changes, and choosing between keys would count as using them up.
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        return a if is_key else jnp.where(frozen, a, b)

    return jax.tree.map(select, old, new)
