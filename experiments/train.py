"""One training run as a pure function, so that one program serves every rate and seed."""

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
    """The state that a run carries from epoch to epoch."""

    key: jax.Array
    params: Params
    opt_state: optax.OptState
    best_params: Params
    best_score: jax.Array
    best_epoch: jax.Array
    epoch: jax.Array


class Metrics(NamedTuple):
    """The mean loss over the batches of an epoch, and the validation score after the epoch.

    A batch's loss is the mean over its targets. So targets in a batch with few targets weigh a
    little more.
    """

    loss: jax.Array | np.ndarray
    score: jax.Array | np.ndarray


def make_init(
    task: Task, regularizer: str, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], RunState]:
    """Returns `init(key) -> RunState`. It is the same for a regularizer and its plain network."""
    model = task.network(task.plain(regularizer))
    worst = jnp.float32(-jnp.inf if task.metric.higher_is_better else jnp.inf)

    def init(key: jax.Array) -> RunState:
        inputs = [jnp.asarray(array[:1]) for array in task.data.train.inputs]
        params = model.init(jax.random.fold_in(key, 0), *inputs, jnp.float32(0), deterministic=True)
        zero = jnp.int32(0)
        return RunState(key, params, optimizer.init(params), params, worst, zero, zero)

    return init


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns the number of full batches, at least 1."""
    return max(1, examples // batch_size)


def make_epoch(
    task: Task,
    regularizer: str,
    optimizer: optax.GradientTransformation,
) -> Callable[[RunState, jax.Array, Split, Split], tuple[RunState, Metrics]]:
    """Returns `epoch(state, rate, train, validation) -> state, metrics`.

    `rate` is an argument, so one compile serves all rates, and `jax.vmap` over state and rate
    trains the same runs side by side. A run that is out of patience is frozen: its state does not
    change. Each epoch shuffles the examples and leaves out those that do not fill the last batch.
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
        # With NaN weights the score can still be finite, because argmax of NaN returns an index.
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
    """Returns whether none of the last `patience` epochs was the best."""
    return state.epoch - state.best_epoch >= patience


def batch_loss(
    params: Params, task: Task, model: nn.Module, batch: Split, rate: jax.Array, key: jax.Array
) -> jax.Array:
    """Returns the mean loss of a batch's targets, without padding."""
    outputs: Any = model.apply(
        params, *batch.inputs, rate, deterministic=False, rngs={"dropout": key}
    )
    losses = jnp.where(batch.counted, task.losses(outputs, batch.targets), 0.0)
    return losses.sum() / batch.counted.sum().astype(jnp.float32)


def evaluate(
    params: Params, task: Task, model: nn.Module, batches: Split, rate: jax.Array
) -> jax.Array:
    """Returns the score over batches of examples, without padding."""

    def sums(batch: Split) -> tuple[jax.Array, jax.Array]:
        outputs = predict(params, model, batch, rate)
        points = jnp.where(batch.counted, task.points(outputs, batch.targets), 0.0)
        return points.sum(), batch.counted.sum()

    points, counted = jax.lax.map(sums, batches)
    return task.score(points.sum() / counted.sum().astype(jnp.float32))


def predict(params: Params, model: nn.Module, batch: Split, rate: jax.Array) -> Any:
    """Returns the outputs for a batch, with nothing dropped.

    Zoneout still needs the rate: in evaluation it mixes the old and the new state by it.
    """
    return model.apply(params, *batch.inputs, rate, deterministic=True)


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _unless_frozen(frozen: jax.Array, old: RunState, new: RunState) -> RunState:
    """Returns the new state, or the old one if the run is frozen."""

    def select(a: jax.Array, b: jax.Array) -> jax.Array:
        # The key never changes, and jnp.where would consume it.
        is_key = jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        return a if is_key else jnp.where(frozen, a, b)

    return jax.tree.map(select, old, new)
