"""One training run as a pure function, so that a single program serves every rate and seed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from .task import Split, Task

Params = Any


class RunState(NamedTuple):
    """All that a run carries from epoch to epoch."""

    key: jax.Array
    params: Params
    opt_state: optax.OptState
    best_params: Params
    best_score: jax.Array
    best_epoch: jax.Array
    epoch: jax.Array


class Metrics(NamedTuple):
    """What an epoch reports: mean of its batches' losses, and the validation score after it.

    A batch's loss is the mean over its targets, so those of batches with few weigh a little more.
    """

    loss: jax.Array | np.ndarray
    score: jax.Array | np.ndarray


def make_init(
    task: Task, regularizer: str, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], RunState]:
    """Returns `init(key) -> RunState`; the same key gives networks that compare the same start."""
    model = task.network(task.plain(regularizer))
    worst = jnp.float32(-jnp.inf if task.metric.higher_is_better else jnp.inf)

    def init(key: jax.Array) -> RunState:
        inputs = [jnp.asarray(array[:1]) for array in task.data.train.inputs]
        params = model.init(jax.random.fold_in(key, 0), *inputs, jnp.float32(0), deterministic=True)
        zero = jnp.int32(0)
        return RunState(key, params, optimizer.init(params), params, worst, zero, zero)

    return init


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns how many full batches the training part has; one, if it is smaller than a batch."""
    return max(1, examples // batch_size)


def make_epoch(
    task: Task,
    regularizer: str,
    optimizer: optax.GradientTransformation,
) -> Callable[[RunState, jax.Array, Split, Split], tuple[RunState, Metrics]]:
    """Returns `epoch(state, rate, train, validation) -> state, metrics`.

    `rate` is an ordinary argument, so one compile serves all rates, and `jax.vmap` over state and
    rate gives the same runs side by side. A run out of patience is frozen: it comes back as it was.
    Each epoch shuffles the examples anew and leaves out those that its last batch cannot fill.
    """
    model = task.network(regularizer)
    batch_size, patience = task.config.batch_size, task.config.patience

    def epoch(
        state: RunState, rate: jax.Array, train: Split, validation: Split
    ) -> tuple[RunState, Metrics]:
        key = jax.random.fold_in(state.key, state.epoch + 1)
        shuffle_key, dropout_key = jax.random.split(key)
        examples = len(train.targets)
        size = min(batch_size, examples)
        steps = steps_per_epoch(examples, batch_size)
        order = jax.random.permutation(shuffle_key, examples)
        order = order[: steps * size].reshape(steps, size)

        def step(carry, inputs):
            params, opt_state = carry
            indices, step_key = inputs
            batch = jax.tree.map(lambda array: array[indices], train)
            loss, grads = jax.value_and_grad(batch_loss)(params, task, model, batch, rate, step_key)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        (params, opt_state), losses = jax.lax.scan(
            step, (state.params, state.opt_state), (order, jax.random.split(dropout_key, steps))
        )
        best, score = state.best_score, evaluate(params, task, model, validation, rate)
        # Of weights that are no numbers a score can still be one: argmax finds a largest NaN.
        norm = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(params))
        score = jnp.where(jnp.isfinite(norm), score, jnp.nan)
        better = score > best if task.metric.higher_is_better else score < best
        new = state._replace(
            params=params,
            opt_state=opt_state,
            best_params=_where(better, params, state.best_params),
            best_score=jnp.where(better, score, best),
            best_epoch=jnp.where(better, state.epoch + 1, state.best_epoch),
            epoch=state.epoch + 1,
        )
        frozen = out_of_patience(state, patience)
        return _unless_frozen(frozen, state, new), Metrics(losses.mean(), score)

    return epoch


def out_of_patience(state: RunState, patience: int) -> jax.Array:
    """Tells whether the last `patience` epochs all failed to beat the best one."""
    return state.epoch - state.best_epoch >= patience


def batch_loss(
    params: Params, task: Task, model: nn.Module, batch: Split, rate: jax.Array, key: jax.Array
) -> jax.Array:
    """The mean loss of a batch's targets; padding counts nothing."""
    outputs: Any = model.apply(
        params, *batch.inputs, rate, deterministic=False, rngs={"dropout": key}
    )
    losses = jnp.where(batch.counted, task.losses(outputs, batch.targets), 0.0)
    return losses.sum() / batch.counted.sum().astype(jnp.float32)


def evaluate(
    params: Params, task: Task, model: nn.Module, batches: Split, rate: jax.Array
) -> jax.Array:
    """The score over batches of examples; padding counts nothing."""

    def sums(batch: Split) -> tuple[jax.Array, jax.Array]:
        outputs = predict(params, model, batch, rate)
        points = jnp.where(batch.counted, task.points(outputs, batch.targets), 0.0)
        return points.sum(), batch.counted.sum()

    points, counted = jax.lax.map(sums, batches)
    return task.score(points.sum() / counted.sum().astype(jnp.float32))


def predict(params: Params, model: nn.Module, batch: Split, rate: jax.Array) -> Any:
    """The outputs for a batch, with nothing dropped.

    The rate matters all the same to zoneout, whose evaluation mixes old and new by it.
    """
    return model.apply(params, *batch.inputs, rate, deterministic=True)


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _unless_frozen(frozen: jax.Array, old: RunState, new: RunState) -> RunState:
    """Returns the new state, or for a frozen run the old one."""

    def select(a: jax.Array, b: jax.Array) -> jax.Array:
        # The key never changes, and choosing between keys would count as using them up.
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        return a if is_key else jnp.where(frozen, a, b)

    return jax.tree.map(select, old, new)
