"""What do recurrent dropout and the loop itself cost, compared to Flax's and Keras's layers?

All layers run over [batch, time, features]. The rows are the gradient for weights and inputs, timed
here, or compiled for a TPU in bfloat16. Flax's own RNN has no dropout.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import flax_spatialdrop.linen as fsl

from . import timing
from .cases import Case, describe
from .libraries import FLAX, FLAX_AGAIN, OURS, missing
from .results import Record, timed

SECTION = "recurrent"
SIZES = ((64, 64, 128, 128), (32, 256, 512, 512))
BOTH = {"dropout": 0.2, "recurrent_dropout": 0.2}
HOSTS = {"LSTM": nn.OptimizedLSTMCell, "GRU": nn.GRUCell}
WITHOUT, PER_GATE, KERAS = "without dropout", "a mask a gate", "Keras"
KERAS_WITHOUT = "Keras without dropout"


def measure(only: re.Pattern[str], seconds: float) -> Iterator[Record]:
    """Yields time and memory of every matching size and cell."""
    for size in SIZES:
        for kind in HOSTS:
            row = _named(kind, "float32", size)
            if only.search(f"{SECTION}: {row}"):
                yield from _row(row, kind, size, seconds)


def cases() -> Iterator[Case]:
    """Yields the same gradients in bfloat16 for TPUs, with replicated weights."""
    dtypes = {
        "dtype": jnp.bfloat16,
        "param_dtype": jnp.bfloat16,
        # Flax's default is orthogonal matrices, which JAX cannot draw in bfloat16.
        "recurrent_kernel_init": nn.initializers.lecun_normal(),
    }
    for size in SIZES:
        for kind in HOSTS:
            *shape, hidden = size
            x = jax.ShapeDtypeStruct(tuple(shape), jnp.bfloat16)
            host = nn.RNN(HOSTS[kind](hidden, **dtypes))
            layers = {
                OURS: getattr(fsl, kind)(hidden, **BOTH, deterministic=False, **dtypes),
                WITHOUT: getattr(fsl, kind)(hidden, **dtypes),
                FLAX: host,
            }
            yield Case(
                section=SECTION,
                row=_named(kind, "bfloat16", size),
                baseline=WITHOUT,
                programs={name: _program(layer) for name, layer in layers.items()},
                shapes=(x, jax.eval_shape(host.init, jax.random.key(0), x)),
            )


def _program(layer: nn.Module) -> Callable[..., Any]:
    def program(key: jax.Array, x: jax.Array, weights: Any) -> Any:
        f: Callable[..., Any] = partial(layer.apply, rngs={"dropout": key})
        return _gradient(f)(weights, x)

    return program


def _named(kind: str, dtype: str, size: tuple[int, int, int, int]) -> str:
    *shape, hidden = size
    return f"{kind} {describe(dtype, tuple(shape))} -> {hidden}"


def _row(row: str, kind: str, size: tuple[int, int, int, int], seconds: float) -> Iterator[Record]:
    batch, time, features, hidden = size
    x = jax.random.normal(jax.random.key(0), (batch, time, features))
    host = nn.RNN(HOSTS[kind](hidden))
    params = host.init(jax.random.key(1), x)
    layers = {
        OURS: getattr(fsl, kind)(hidden, **BOTH, deterministic=False),
        WITHOUT: getattr(fsl, kind)(hidden),
        PER_GATE: getattr(fsl, kind)(hidden, **BOTH, per_gate=True, deterministic=False),
        FLAX: host,
        FLAX_AGAIN: host,
    }
    programs: dict[str, Any] = {}
    calls: dict[str, timing.Call] = {}
    for name, layer in layers.items():
        rngs = {"dropout": jax.random.key(2)}
        f: Callable[..., Any] = partial(layer.apply, rngs=rngs)
        programs[name] = _gradient(f).lower(params, x).compile()
        calls[name] = partial(programs[name], params, x)
    if "Keras" not in missing():
        for name, options in ((KERAS, BOTH), (KERAS_WITHOUT, {})):
            f, weights = _keras(kind, hidden, x, options)
            programs[name] = _gradient(f).lower(weights, x).compile()
            calls[name] = partial(programs[name], weights, x)
    times = timing.times(calls, seconds)
    yield timed(SECTION, row, "time in ms", times)
    scratch = {name: timing.scratch_bytes(program) / 2**20 for name, program in programs.items()}
    yield Record(SECTION, row, "scratch memory in MiB", scratch)


def _gradient(f: Callable[[Any, jax.Array], jax.Array]) -> Any:
    def loss(weights: Any, x: jax.Array) -> jax.Array:
        return (f(weights, x) ** 2).sum(dtype=jnp.float32)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))


def _keras(
    kind: str, hidden: int, x: jax.Array, options: dict[str, float]
) -> tuple[Callable[..., jax.Array], Any]:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    layer = getattr(keras.layers, kind)(hidden, return_sequences=True, **options)
    layer.build(x.shape)
    others = [variable.value for variable in layer.non_trainable_variables]

    def f(weights: Any, x: jax.Array) -> jax.Array:
        y, _ = layer.stateless_call(weights, others, x, training=True)
        return jnp.asarray(y)

    return f, [variable.value for variable in layer.trainable_variables]
