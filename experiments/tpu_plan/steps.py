"""Makes the training step of a config as a program over a mesh, from shapes alone."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from flax_spatialdrop import fast_key, linen

from .. import checks, devices, optimizer, settings, train
from ..devices import AXES, parameter_axes
from ..errors import InputError
from ..task import Split
from ..tasks import TASKS
from . import decoder, resnet
from .decoder import BATCH

FLAX = {"tagging": ("Dropout",), "forecasting": ("both",), "language": ("none", "weights")}
"""The regularizers of each task that Flax's own layers can replace."""
NAMES = {"resnet50": resnet.NAMES, "decoder": decoder.NAMES}
"""The regularizers of the networks that are only planned."""
SIZES = {
    "resnet50": ("image_size", "classes", "features"),
    "decoder": ("length", "vocabulary", "layers", "features", "heads"),
}
CAUSAL = ("decoder", "language")
"""The tasks whose attention in blocks is causal."""


class Arm(NamedTuple):
    """What is compiled: a regularizer, by this library's layers or by Flax's own."""

    regularizer: str
    flax: bool = False
    fast: bool = False
    """Whether masks are drawn from a `fast_key`."""

    @property
    def name(self) -> str:
        """The name in results."""
        if self.fast:
            return f"{self.regularizer} with fast_key"
        return f"Flax {self.regularizer}" if self.flax else self.regularizer


class Problem(NamedTuple):
    """A network and its loss, with the shapes of a batch."""

    model: nn.Module
    losses: Callable[[jax.Array, Any], jax.Array]
    batch: Split
    optimizer: optax.GradientTransformation

    def first_state(self) -> train.TrainState:
        """Returns the state before the first step."""
        inputs = tuple(jnp.zeros((1, *array.shape[1:]), array.dtype) for array in self.batch.inputs)
        return train.first_state(self.model, inputs, self.optimizer, jax.random.key(0))

    def make_step(self) -> train.Step:
        """Returns the trainer's own step."""
        return train.make_step(train.make_loss(self.model, self.losses), self.optimizer)


class Step(NamedTuple):
    """A training step, with its arguments as shapes with shardings.

    `run(*arguments)` takes the state first and returns the new state and the loss.
    """

    run: Callable[..., Any]
    arguments: tuple[Any, ...]

    def bytes_a_chip(self) -> dict[str, int]:
        """Returns the memory that the arguments take on a chip, by part."""
        state, *_, batch, _ = self.arguments
        parts = {"parameters": state.variables, "optimizer state": state.opt_state, "batch": batch}
        return {name: _bytes_a_chip(tree) for name, tree in parts.items()}


def check(config: ConfigDict) -> None:
    """Raises InputError for a config that cannot be planned."""
    checks.has("config", config, ("name", "task"))
    checks.one_of("config.task", config.task, (*TASKS, *SIZES))
    checks.has("config", config, ("mesh",))
    devices.check(config.mesh)
    checks.at_least(1, "config.mesh", config.mesh, ("fsdp", "model"))
    checks.one_of("config.mesh.axis_type", config.mesh.axis_type, ("auto",))
    if config.task in TASKS:
        settings.check(config)
        return
    checks.folder_name("config.name", config.name)
    sizes = ("batch_size", *SIZES[config.task])
    checks.has("config", config, ("regularizers", "flax", "fast_key", "rate", "optimizer", *sizes))
    for field in ("regularizers", "flax", "fast_key"):
        for name in config[field]:
            checks.one_of(f"each of config.{field}", name, NAMES[config.task])
    checks.rate("config.rate", config.rate)
    checks.at_least(1, "config", config, sizes)
    optimizer.check(config.optimizer)


def arms(config: ConfigDict) -> list[Arm]:
    """Returns what is compiled for a config: this library's layers, with fast keys, and Flax's."""
    ours = [Arm(name) for name in config.regularizers]
    if config.task in TASKS:
        return ours + [
            Arm(name, flax=True) for name in FLAX.get(config.task, ()) if Arm(name) in ours
        ]
    fast = [Arm(name, fast=True) for name in config.fast_key]
    return ours + fast + [Arm(name, flax=True) for name in config.flax if Arm(name) in ours]


def compared_to(config: ConfigDict, arm: Arm) -> Arm | None:
    """Returns the arm without dropout that an arm is compared to."""
    is_task = config.task in TASKS
    plain = TASKS[config.task].plain(arm.regularizer) if is_task else "none"
    # With another attention, the network without dropout has another cost too.
    found = [other for other in arms(config) if other.regularizer == plain]
    own = [other for other in found if other.flax == arm.flax] or found
    return own[0] if own and own[0] != arm else None


def mesh_sizes(config: ConfigDict, chips: int) -> tuple[int, int, int]:
    """Returns the sizes of the axes of a mesh. The axis "data" has the chips that others leave."""
    fsdp, model = config.mesh.fsdp, config.mesh.model
    if chips % (fsdp * model):
        raise InputError(
            "config.mesh.fsdp * config.mesh.model must divide the chips: "
            f"got {fsdp} * {model} for {chips} chips"
        )
    return chips // (fsdp * model), fsdp, model


def make_mesh(config: ConfigDict, chips: list[Any]) -> Mesh:
    """Returns the mesh of a config, with a batch and parameters divided as in training."""
    sizes = mesh_sizes(config, len(chips))
    return Mesh(np.array(chips).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch(config: ConfigDict, batch: int, chips: int) -> None:
    """Raises InputError if the chips cannot share a batch."""
    data, fsdp, _ = mesh_sizes(config, chips)
    if batch % (data * fsdp):
        raise InputError(
            f"the chips must share the batch equally: got {batch} examples for {data * fsdp} parts "
            "(config.mesh.data * config.mesh.fsdp); --batch_a_chip sets it for each chip"
        )


def plan(config: ConfigDict, arm: Arm, mesh: Mesh, batch: int) -> Step:
    """Returns the step of an arm. Ours takes the rate as an argument, and Flax's has it fixed."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    if config.task in TASKS:
        make_state, run, shapes = task_step(config, arm, batch)
        rate = config.rates[0]
    else:
        problem = make_problem(config, arm, batch)
        make_state, run, shapes = problem.first_state, problem.make_step(), problem.batch
        rate = config.rate

    def spread(leaf: Any) -> PartitionSpec:
        return PartitionSpec(*parameter_axes(leaf.shape, mesh.shape))

    state = _placed(jax.eval_shape(make_state), mesh, spread)
    data = _placed(shapes, mesh, lambda leaf: BATCH)
    run = _without_norm(run)
    if arm.fast:
        run = _with_fast_key(run)
    key, traced = _placed((key, jax.ShapeDtypeStruct((), jnp.float32)), mesh, _nowhere)
    if arm.flax:
        return Step(lambda state, batch, key: run(state, rate, batch, key), (state, data, key))
    return Step(run, (state, traced, data, key))


def task_step(config: ConfigDict, arm: Arm, batch: int) -> tuple[Callable[[], Any], Any, Split]:
    """Returns the trainer's own initial state and step for a task, and the shapes of a batch."""
    config = config.copy_and_resolve_references()
    if arm.flax and config.task == "language":
        config.attention = "flax"
    task: Any = TASKS[config.task](config)
    examples = len(task.data.train.targets)
    updates = config.epochs * train.steps_per_epoch(examples, config.batch_size)
    optim = optimizer.make(config.optimizer, updates)
    make_init = train.make_init(task, arm.regularizer, optim)
    step = train.make_step(train.make_loss(task.network(arm.regularizer), task.losses), optim)

    def run(*arguments: Any) -> Any:
        with flax_dropout() if arm.flax else nullcontext():
            return step(*arguments)

    def shape(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *array.shape[1:]), array.dtype)

    return lambda: make_init(jnp.int32(0))[0], run, jax.tree.map(shape, task.data.train)


def make_problem(config: ConfigDict, arm: Arm, batch: int) -> Problem:
    """Returns a network that is only planned. The targets of the decoder have its inputs' shape."""

    def shape(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct((batch, *sizes), dtype)

    if config.task == "resnet50":
        blocks = tuple(config.blocks)
        sizes = {"classes": config.classes, "blocks": blocks, "features": config.features}
        model: nn.Module = resnet.Classifier(arm.regularizer, arm.flax, **sizes)
        images = shape(jnp.bfloat16, config.image_size, config.image_size, 3)
        examples = Split((images,), shape(jnp.int32), shape(bool))
    else:
        sizes = {name: config[name] for name in ("vocabulary", "layers", "features", "heads")}
        model = decoder.Decoder(**sizes, regularizer=arm.regularizer, flax=arm.flax)
        tokens = shape(jnp.int32, config.length)
        examples = Split((tokens,), tokens, shape(bool, config.length))
    losses = optax.softmax_cross_entropy_with_integer_labels
    # The length of a training does not change its step, but must be longer than the warm-up.
    updates = config.optimizer.warmup_steps + 1
    optim = optimizer.make(config.optimizer, updates * config.optimizer.accumulate)
    return Problem(model, losses, examples, optim)


def _without_norm(run: Callable[..., Any]) -> Callable[..., Any]:
    """Leaves out the norm of the gradients, which is a metric and not needed to train."""

    def without_norm(*arguments: Any) -> Any:
        state, measured = run(*arguments)
        return state, measured.loss

    return without_norm


def _with_fast_key(run: Callable[..., Any]) -> Callable[..., Any]:
    def with_fast_key(*arguments: Any) -> Any:
        *others, key = arguments
        return run(*others, fast_key(key))

    return with_fast_key


@contextmanager
def flax_dropout() -> Iterator[None]:
    """Runs Flax's own layer wherever a network calls this library's Dropout."""

    def replaced(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        layer: Any = context.module
        if type(layer) is not linen.Dropout or context.method_name != "__call__":
            return call(*args, **kwargs)
        if nn.merge_param("deterministic", layer.deterministic, kwargs.get("deterministic")):
            return args[0]
        rate: Any = layer.rate  # a number, as Flax needs
        flax: Any = nn.Dropout(rate, layer.broadcast_dims, deterministic=False, parent=None)
        return flax.apply({}, args[0], rngs={"dropout": layer.make_rng("dropout")})

    with nn.intercept_methods(replaced):
        yield


def _placed(tree: Any, mesh: Mesh, spec: Callable[[Any], PartitionSpec]) -> Any:
    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec(leaf))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, tree)


def _nowhere(leaf: Any) -> PartitionSpec:
    return PartitionSpec()


def _bytes_a_chip(tree: Any) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
