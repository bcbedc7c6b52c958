"""Networks that the harness of the experiments trains without dropout."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from flax_spatialdrop.linen import insert

from ..loop import Loop
from ..metrics import Profiler
from ..programs import EVALUATION_BATCH, Builder
from ..runs import Progress, Run
from ..task import Array, Split, Task
from ..train import Variables, make_loss

Path = tuple[str, ...]
NETWORK = "none"


class Trainer:
    """Trains the network of a task from any seed, with one compile."""

    def __init__(self, task: Task):
        self._config = task.config
        self.network = task.network(NETWORK)
        self._builder = Builder(task)
        self._programs = self._builder.compile(NETWORK, [Run(0.0, 0)])

    def train(self, seed: int) -> tuple[Variables, float]:
        """Returns the variables of the best epoch on validation data, and their test score."""
        runs = [Run(0.0, seed)]
        arrays = self._builder.start(NETWORK, runs)
        progress = Progress(NETWORK, runs)
        loop = Loop(self._config, self._builder, self._programs, arrays, progress)
        while not loop.has_ended:
            loop.call(Profiler(None))
        (_, best), _ = loop.snapshot()
        (record,) = loop.test()
        return jax.tree.map(lambda leaf: leaf[0], best.variables), record["test_score"]


def outputs(
    network: nn.Module, variables: Variables, inputs: tuple[Array, ...], modules: Sequence[Path]
) -> list[np.ndarray]:
    """Returns the outputs of some modules of a network, with nothing dropped."""

    @jax.jit
    def captured(*batch: jax.Array) -> list[jax.Array]:
        _, found = network.apply(
            variables,
            *batch,
            jnp.float32(0),
            deterministic=True,
            capture_intermediates=lambda module, method: module.path in modules,
            mutable=["intermediates"],
        )
        flat = traverse_util.flatten_dict(found["intermediates"])
        return [flat[*path, "__call__"][0] for path in modules]

    parts = [
        captured(*(array[first : first + EVALUATION_BATCH] for array in inputs))
        for first in range(0, len(inputs[0]), EVALUATION_BATCH)
    ]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def make_gradient_noise(
    task: Task, first: Path, module: Path, layer: nn.Module, batch: Split, masks: int
) -> Callable[[Variables], float]:
    """Returns a function of variables: the variance of a gradient relative to its squared mean.

    The gradient is that of the parameter `first` for one batch, the variance is over masks, and the
    layer drops the output of a module. The variance and the squared mean are sums over the values
    of the parameter, and are estimated without bias.
    """
    loss = make_loss(task.network(NETWORK), task.losses)

    @jax.jit
    def gradients(variables: Variables, keys: jax.Array) -> jax.Array:
        params: Any = traverse_util.flatten_dict(variables["params"])

        def loss_of(value: jax.Array, key: jax.Array) -> jax.Array:
            changed = traverse_util.unflatten_dict({**params, first: value})
            return loss({**variables, "params": changed}, jnp.float32(0), batch, key)[0]

        with insert(after=lambda path, _: path == module, layer=layer):
            return jax.lax.map(lambda key: jax.grad(loss_of)(params[first], key), keys)

    def noise(variables: Variables) -> float:
        found = np.asarray(gradients(variables, jax.random.split(jax.random.key(0), masks)))
        variance = found.var(0, ddof=1).sum()
        squared_mean = (found.mean(0) ** 2).sum() - variance / masks
        return float(variance / squared_mean)

    return noise
