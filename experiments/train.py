"""Training as pure functions, so that one program serves every rate and seed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from .runs import out_of_patience
from .task import Array, Split, Task

Variables = Any
"""The variables of a network: its parameters, and others such as batch statistics."""
Loss = Callable[[Variables, jax.Array, Any, jax.Array], tuple[jax.Array, Variables]]
"""`loss(variables, rate, batch, key)` returns a scalar, and the new variables but "params"."""


class TrainState(NamedTuple):
    """The state that a run carries from step to step.

    Attributes:
      step: the number of steps taken.
      params: the parameters, which the optimizer changes.
      others: the other variables, which the network itself changes, by collection.
      opt_state: the state of the optimizer.
    """

    step: jax.Array
    params: Variables
    others: dict[str, Variables]
    opt_state: optax.OptState

    @property
    def variables(self) -> Variables:
        """All variables, as the network takes them."""
        return {"params": self.params, **self.others}


class Best(NamedTuple):
    """The variables of the best epoch so far, its validation score and its number from 1."""

    variables: Variables
    score: jax.Array
    epoch: jax.Array


class Measured(NamedTuple):
    """What a step measures: its loss, and the global norm of its gradients before any clipping."""

    loss: jax.Array
    gradient_norm: jax.Array


Step = Callable[[TrainState, jax.Array, Any, jax.Array], tuple[TrainState, Measured]]


def make_init(
    task: Task, regularizer: str, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], tuple[TrainState, Best]]:
    """Returns `init(seed) -> state, best`. A regularizer starts as its plain network does."""
    model = task.network(task.plain(regularizer))
    worst = jnp.float32(-jnp.inf if task.metric.higher_is_better else jnp.inf)

    def init(seed: jax.Array) -> tuple[TrainState, Best]:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        state = first_state(model, task.data.train.inputs, optimizer, key, task.first_params)
        return state, Best(state.variables, worst, jnp.int32(0))

    return init


def first_state(
    model: nn.Module,
    inputs: tuple[Array, ...],
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    first_params: Callable[[Variables], Variables] = lambda params: params,
) -> TrainState:
    """Returns the state before the first step, for inputs of at least one example."""
    one = [jnp.asarray(array[:1]) for array in inputs]
    others: Any = dict(model.init(key, *one, 0.0, deterministic=True))
    params = first_params(others.pop("params"))
    return TrainState(jnp.int32(0), params, others, optimizer.init(params))


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns the number of full batches, at least 1."""
    return max(1, examples // batch_size)


def make_order(
    examples: int, batch_size: int
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns `order(seed, epoch) -> indices, keys`: the examples and the key data of each step.

    Each epoch shuffles the examples and leaves out those that do not fill the last batch.
    """
    size, steps = min(batch_size, examples), steps_per_epoch(examples, batch_size)

    def order(seed: jax.Array, epoch: jax.Array) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        shuffle_key, dropout_key = jax.random.split(key)
        indices = jax.random.permutation(shuffle_key, examples)[: steps * size]
        keys = jax.random.key_data(jax.random.split(dropout_key, steps))
        return indices.reshape(steps, size), keys

    return order


def make_loss(model: nn.Module, losses: Callable[[Any, Any], jax.Array]) -> Loss:
    """Returns the mean loss of a batch's targets, without padding, as a function to minimize.

    `losses(outputs, targets)` returns the loss of every target.
    """

    def loss(
        variables: Variables, rate: jax.Array, batch: Split, key: jax.Array
    ) -> tuple[jax.Array, Variables]:
        outputs, others = model.apply(
            variables,
            *batch.inputs,
            rate,
            deterministic=False,
            rngs={"dropout": key},
            mutable=[name for name in variables if name != "params"],
        )
        counted = jnp.where(batch.counted, losses(outputs, batch.targets), 0.0)
        return counted.sum() / batch.counted.sum().astype(jnp.float32), dict(others)

    return loss


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    rate_at: Callable[[jax.Array, jax.Array], jax.Array] = lambda rate, step: rate,
) -> Step:
    """Returns `step(state, rate, batch, key) -> state, measured`, one step of the optimizer.

    The rate is an argument, so one compile serves all rates. A step drops at rate_at(rate, step).
    """

    def step(
        state: TrainState, rate: jax.Array, batch: Any, key: jax.Array
    ) -> tuple[TrainState, Measured]:
        def loss_of(params: Variables) -> tuple[jax.Array, Variables]:
            variables = state._replace(params=params).variables
            return loss(variables, rate_at(rate, state.step), batch, key)

        (value, others), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        measured = Measured(value, optax.tree.norm(grads))
        return TrainState(state.step + 1, params, others, opt_state), measured

    return step


def make_steps(step: Step) -> Step:
    """Returns `steps(state, rate, batches, keys) -> state, measured`, many steps in one program.

    The first axis of batches, keys and `measured` is the step. Keys are given as their data.
    """

    def steps(
        state: TrainState, rate: jax.Array, batches: Any, keys: jax.Array
    ) -> tuple[TrainState, Measured]:
        def one(state: TrainState, inputs: tuple[Any, jax.Array]) -> tuple[TrainState, Measured]:
            batch, key = inputs
            return step(state, rate, batch, jax.random.wrap_key_data(key))

        return jax.lax.scan(one, state, (batches, keys))

    return steps


def make_validate(
    task: Task, score_of: Callable[[Variables, jax.Array, Split], jax.Array]
) -> Callable[[Variables, Best, jax.Array, jax.Array, Split], tuple[Best, jax.Array]]:
    """Returns `validate(variables, best, rate, epoch, batches) -> best, score`, after an epoch.

    `score_of` returns the score of variables. A run that was out of patience before this epoch is
    frozen: its best epoch does not change.
    """

    def validate(
        variables: Variables, best: Best, rate: jax.Array, epoch: jax.Array, batches: Split
    ) -> tuple[Best, jax.Array]:
        score = score_of(variables, rate, batches)
        # With NaN weights the score can still be finite, because argmax of NaN returns an index.
        norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(variables))
        score = jnp.where(jnp.isfinite(norm), score, jnp.nan)
        better = score > best.score if task.metric.higher_is_better else score < best.score
        better &= ~out_of_patience(epoch - 1, best.epoch, task.config.patience)
        new = Best(variables, score, epoch)
        return jax.tree.map(lambda a, b: jnp.where(better, a, b), new, best), score

    return validate


def evaluate(
    variables: Variables, task: Task, model: nn.Module, batches: Split, rate: jax.Array
) -> jax.Array:
    """Returns the score over batches of examples, without padding."""

    def sums(batch: Split) -> tuple[jax.Array, jax.Array]:
        outputs = predict(variables, model, batch.inputs, rate)
        points = jnp.where(batch.counted, task.points(outputs, batch.targets), 0.0)
        return points.sum(), batch.counted.sum()

    points, counted = jax.lax.map(sums, batches)
    return task.score(points.sum() / counted.sum().astype(jnp.float32))


def predict(
    variables: Variables,
    model: nn.Module,
    inputs: tuple[Array, ...],
    rate: jax.Array,
    key: jax.Array | None = None,
) -> Any:
    """Returns the outputs for a batch, with nothing dropped, or with dropout drawn from a key.

    Zoneout still needs the rate: in evaluation it mixes the old and the new state by it.
    """
    if key is None:
        return model.apply(variables, *inputs, rate, deterministic=True)
    with nn.intercept_methods(_keep_statistics):
        return model.apply(variables, *inputs, rate, deterministic=False, rngs={"dropout": key})


def _keep_statistics(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Runs the call of a layer, but batch norm with the statistics that it has collected."""
    layer = context.module
    is_norm = isinstance(layer, nn.BatchNorm) and context.method_name == "__call__"
    if not is_norm or layer.use_running_average:
        return call(*args, **kwargs)
    kept = layer.clone(parent=None, name=None, use_running_average=True)
    return kept.apply(layer.variables, args[0], mask=kwargs.get("mask"))
