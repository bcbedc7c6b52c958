"""How runs, batches and parameters are spread over devices."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from . import checks
from .errors import InputError
from .task import Split

AXES = ("data", "fsdp", "model")
"""The axes of the mesh of a run, in the order of the config."""
EXAMPLES = ("data", "fsdp")
"""The axes that the examples of a batch are spread over."""
AXIS_TYPES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
REST = -1
"""The size of an axis that takes all devices that the others leave."""
FREE = 0
"""The value of `config.mesh.runs` for as many runs as fit on the devices."""


def defaults(**fields: Any) -> ConfigDict:
    """Returns the part `mesh` of a config, with other values for some of the fields."""
    config = ConfigDict({"runs": FREE, **dict.fromkeys(AXES, 1), "axis_type": "auto"})
    config.update(fields)
    return config


def check(config: ConfigDict) -> None:
    """Raises InputError for an invalid field of `config.mesh`."""
    part = "config.mesh"
    checks.has(part, config, ("runs", *AXES, "axis_type"))
    checks.one_of(f"{part}.axis_type", config.axis_type, AXIS_TYPES)
    checks.at_least(FREE, part, config, ("runs",))
    checks.at_least(1, part, config, [axis for axis in AXES if config[axis] != REST])
    rest = [axis for axis in AXES if config[axis] == REST]
    if len(rest) > 1:
        raise InputError(f"only one axis of {part} may be {REST}: got {' and '.join(rest)}")


def describe(config: ConfigDict, most_runs: int) -> str:
    """Returns the devices in use and, of several, the sizes of the mesh."""
    device = jax.devices()[0]
    kind = f"{device.device_kind} ({device.platform})"
    runs, axes = _sizes(config, jax.device_count(), most_runs)
    sizes = {"runs": runs, **axes}
    count = math.prod(sizes.values())
    if count == 1:
        return kind
    mesh = " x ".join(f"{size} {axis}" for axis, size in sizes.items() if size > 1)
    return f"{count} x {kind} with {mesh}"


class Layout:
    """Spreads the runs of a grid over devices, and each run over a mesh of its own.

    The axes of `mesh` are `runs`, then those of a run. A batch is spread over `data` and `fsdp`.
    Parameters and the optimizer's state are spread over `fsdp` and `model`. Devices that the mesh
    of a run leaves free train other runs at the same time.

    Attributes:
      mesh: all devices in use.
      runs: the number of runs that train side by side.
      shards: the number of parts of a batch.
    """

    def __init__(self, config: ConfigDict, batch_size: int, most_runs: int):
        """`batch_size` is that of a run, and `most_runs` the number of runs of a regularizer."""
        devices = jax.devices()
        self.runs, sizes = _sizes(config, len(devices), most_runs)
        self.shards = sizes["data"] * sizes["fsdp"]
        if batch_size % self.shards:
            raise InputError(
                "config.mesh.data * config.mesh.fsdp must divide the batch: "
                f"got {sizes['data']} * {sizes['fsdp']} for {batch_size} examples"
            )
        self._one_device_a_run = math.prod(sizes.values()) == 1
        shape = (self.runs, *sizes.values())
        self._explicit = AXIS_TYPES[config.axis_type] == AxisType.Explicit
        self.mesh = jax.make_mesh(
            shape,
            ("runs", *AXES),
            axis_types=(AXIS_TYPES[config.axis_type],) * len(shape),
            devices=devices[: math.prod(shape)],
        )

    def put_batches(self, data: Sequence[Split], indices: np.ndarray) -> Split:
        """Puts the examples of these indices [run, step, example] on the devices.

        `data` has a split for each run. Each process reads only the examples of its own devices.
        """

        def put(*arrays: np.ndarray) -> jax.Array:
            def examples(run: int, index: tuple[slice, ...]) -> np.ndarray:
                return arrays[run][indices[run][index[:2]]]

            return self._put_each(examples, indices.shape + arrays[0].shape[1:])

        return jax.tree.map(put, *data)

    def put_evaluation(self, batches: Sequence[Split]) -> Split:
        """Puts the batches [batch, example, ...] of each run on its devices."""

        def put(*arrays: np.ndarray) -> jax.Array:
            def examples(run: int, index: tuple[slice, ...]) -> np.ndarray:
                return arrays[run][index]

            return self._put_each(examples, (len(arrays), *arrays[0].shape))

        return jax.tree.map(put, *batches)

    def _put_each(self, of: Callable[..., np.ndarray], shape: tuple[int, ...]) -> jax.Array:
        """Puts an array [run, batch, example, ...], of which of(run, index) returns a part."""

        def part(index: Any) -> np.ndarray:
            return np.stack([of(run, index[1:]) for run in range(*index[0].indices(shape[0]))])

        sharding = self._sharding("runs", None, EXAMPLES)
        return jax.make_array_from_callback(shape, sharding, part)

    def gathered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function of variables gather them from the axis `fsdp` first.

        With explicit axes it also gathers them from `model`, because products of matrices that are
        both sharded would need a sharding of their own.
        """
        if self._one_device_a_run:
            return function

        def gather(array: jax.Array) -> jax.Array:
            if self._explicit:
                return jax.sharding.reshard(array, PartitionSpec(*[None] * array.ndim))
            spec = [None if axis == "fsdp" else axis for axis in self._spec(array.shape)]
            return jax.lax.with_sharding_constraint(array, self._sharding(*spec))

        def call(variables: Any, *arguments: Any) -> Any:
            variables = jax.tree.map(gather, variables)
            with nn.intercept_methods(_embed) if self._explicit else contextlib.nullcontext():
                return function(variables, *arguments)

        return call

    def spread(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a step spread its new state like the old one, which a scan on explicit axes needs.

        Without it, variables that the network itself changes stay gathered.
        """
        if self._one_device_a_run or not self._explicit:
            return step

        def reshard(new: jax.Array, old: jax.Array) -> jax.Array:
            return jax.sharding.reshard(new, jax.typeof(old).sharding)

        def call(state: Any, *arguments: Any) -> Any:
            new, output = step(state, *arguments)
            return jax.tree.map(reshard, new, state), output

        return call

    def compile(
        self, function: Callable[..., Any], *arguments: Any, states: int = 0
    ) -> Callable[..., Any]:
        """Compiles a function of one run for all runs.

        Ahead-of-time compilation makes sure that no later call compiles again.

        Args:
          function: `(*arguments) -> tuple`, without the axis of runs.
          arguments: arrays [run, ...].
          states: the number of outputs, from the first, that are states of runs. They are spread
            over the devices of their runs. All devices hold the other outputs.
        """
        with jax.set_mesh(self.mesh):
            of_all, inputs = self._side_by_side(function), self._put(arguments)
            outputs = jax.eval_shape(of_all, *inputs)
            shardings = [jax.tree.map(self._of_state, state) for state in outputs[:states]]
            shardings += [self._sharding()] * len(outputs[states:])
            compiled = jax.jit(of_all, out_shardings=tuple(shardings)).lower(*inputs).compile()
        return lambda *arguments: compiled(*self._put(arguments))

    def _put(self, arguments: tuple) -> tuple:
        """Moves arrays [run, ...] from the host to the devices of their runs."""
        sharding = self._sharding("runs")

        def put(array: Any) -> jax.Array:
            if isinstance(array, jax.Array):
                return array
            return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

        return jax.tree.map(put, arguments)

    def _of_state(self, array: Any) -> NamedSharding:
        """Returns the sharding of an array [run, ...] of a state. Numbers are on all devices."""
        if array.ndim == 1:
            return self._sharding()
        return self._sharding("runs", *self._spec(array.shape[1:]))

    def _side_by_side(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Makes a function of one run one of all runs.

        If each run has one device, each device runs the ordinary program, so results have the same
        bits as on one device.
        """

        def of_one(*arguments: Any) -> Any:
            outputs = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
            return jax.tree.map(lambda leaf: leaf[None], outputs)

        if self._one_device_a_run:
            return jax.shard_map(
                of_one,
                mesh=self.mesh,
                in_specs=PartitionSpec("runs"),
                out_specs=PartitionSpec("runs"),
                check_vma=False,  # no run needs another
            )
        return of_one if self.runs == 1 else jax.vmap(function, spmd_axis_name="runs")

    def _spec(self, shape: tuple[int, ...]) -> list[str | None]:
        return parameter_axes(shape, self.mesh.shape)

    def _sharding(self, *spec: Any) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*spec))


def parameter_axes(shape: tuple[int, ...], sizes: Mapping[str, int]) -> list[str | None]:
    """Returns the axis of the mesh for each axis of a parameter.

    `model` takes the last axis that it divides, and `fsdp` the largest one that is left.
    """
    spec: list[str | None] = [None] * len(shape)
    for name in ("model", "fsdp"):
        size = sizes[name]
        fits = [axis for axis, n in enumerate(shape) if spec[axis] is None and n % size == 0]
        if size > 1 and fits:
            spec[max(fits, key=lambda axis: axis if name == "model" else shape[axis])] = name
    return spec


def _sizes(config: ConfigDict, count: int, most_runs: int) -> tuple[int, dict[str, int]]:
    """Returns the number of runs and the sizes of a run's axes, for this number of devices."""
    sizes = {axis: config[axis] for axis in AXES}
    text = ", ".join(f"{axis}={config[axis]}" for axis in ("runs", *AXES))
    known = math.prod(size for size in (config.runs or 1, *sizes.values()) if size != REST)
    if known > count:
        sizes = {"runs": config.runs or 1, **sizes}
        text = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size != 1)
        raise InputError(
            f"config.mesh needs at least {known} devices ({text}): there are {count}; on a CPU, "
            f"JAX_NUM_CPU_DEVICES={known} makes {known}"
        )
    if REST in sizes.values():
        if count % known:
            raise InputError(f"config.mesh must divide the devices: got {text} for {count}")
        sizes = {axis: count // known if size == REST else size for axis, size in sizes.items()}
    of_run = math.prod(sizes.values())
    runs = config.runs or (count // of_run)
    if config.axis_type == "explicit" and of_run > 1:
        if config.runs > 1:  # JAX's vmap does not support all layers on explicit axes
            raise InputError(
                "config.mesh.runs must be 0 or 1 if a run has several devices and "
                f"config.mesh.axis_type=explicit: got {text}"
            )
        runs = 1
    if jax.process_count() == 1:
        return config.runs or min(runs, most_runs), sizes
    if runs * of_run != count:  # a process without a device could not take part
        raise InputError(
            f"config.mesh must use all devices of all processes: got {text} for {count}"
        )
    return runs, sizes


def _embed(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    """Runs the call of a Linen layer. Embed needs the sharding of its output on explicit axes."""
    layer = context.module
    if type(layer) is not nn.Embed or context.method_name != "__call__":
        return call(*args, **kwargs)
    (table,) = layer.promote_dtype(layer.embedding, dtype=layer.dtype, inexact=False)
    assert table is not None
    spec = jax.typeof(args[0]).sharding.spec
    return table.at[args[0]].get(out_sharding=PartitionSpec(*spec, None))
