"""What drops in an NNX model: a forward pass of a copy, watched."""

from typing import Any

import jax
from flax import nnx

from .._apply import check_input
from .._noise_shape import resolve_noise_shape
from .._rates import check_rate
from .._summary import Recorder, Summary, draws, kept_for_backward, with_zeros
from .._typing import Array
from ._call import find_key, is_deterministic
from ._regularizer import Regularizer


def summarize(model: nnx.Module, *args: Any, **kwargs: Any) -> Summary:
    """Lists every regularizer that a forward pass of a model uses, and what it does there.

        kept bytes = bytes of the residuals of jax.vjp(regularizer, x)

    The pass is that of `model(*args, **kwargs)`, by a copy: streams and statistics stay as they
    are. It is compiled and run, but of what it computes only the keys are needed, and XLA leaves
    the rest out. Listed are the modules of this package and `flax.nnx.Dropout`, where they are
    part of the model; dropout inside Flax's attention layers, and functions called without a
    module, are not.

    Args:
      model: any NNX module.
      *args: what the model is called with: arrays, jax.ShapeDtypeStruct in their place, nnx.Rngs,
        anything.
      **kwargs: as args.

    Returns:
      A Summary: `print` it for the table; `sites` and `remarks` hold the same as values.

    Raises:
      ValueError, TypeError: as the model's own call.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import SpatialDropout1D, summarize
      >>> rngs = nnx.Rngs(params=0, dropout=1)
      >>> model = nnx.Sequential(nnx.Linear(5, 4, rngs=rngs), SpatialDropout1D(0.5, rngs=rngs))
      >>> summary = summarize(model, jnp.ones((2, 3, 5)))
      >>> summary.sites[0].noise_shape, summary.sites[0].coin_flips
      ((2, 1, 4), 8)

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    recorder = Recorder()
    graph, state = nnx.split((model, args, kwargs))

    def forward(state: Any) -> None:
        twin, inputs, options = nnx.merge(graph, state)
        for path, module in nnx.iter_modules(twin):
            if isinstance(module, Regularizer | nnx.Dropout):
                _watch(module, path, recorder)
        inputs, options = with_zeros((inputs, options))
        twin(*inputs, **options)

    jax.jit(forward)(state)
    return recorder.summary()


def _watch(module: Any, path: tuple[Any, ...], recorder: Recorder) -> None:
    """Has a module note its calls; by its class, so that nnx.scan and the like keep it so."""
    cls = type(module)

    def noted(self, inputs, *, deterministic=None, rngs=None, mask=None, **options):
        rate = options.get("rate")
        rate = check_rate(self.rate if rate is None else rate)
        noise_shape = _noise_shape(self, inputs)
        off = is_deterministic(self, deterministic)
        stream, key = _stream(self, rngs), None
        if draws(rate, off, mask):
            rngs = key = find_key(self, rate, rngs)
        if mask is not None:
            options["mask"] = mask

        def call(x):
            return cls.__call__(self, x, deterministic=off, rngs=rngs, **options)

        recorder.note(
            path,
            f"flax.nnx.{cls.__name__}" if cls is nnx.Dropout else cls.__name__,
            inputs,
            noise_shape,
            rate=rate,
            deterministic=off,
            stream=stream,
            key=key,
            mask=mask,
            kept_bytes=kept_for_backward(call, inputs),
        )
        return call(inputs)

    module.__class__ = type(cls.__name__, (cls,), {"__call__": noted})


def _stream(module: Any, rngs: Any) -> str:
    if isinstance(rngs, nnx.Rngs):
        return module.rng_collection
    if isinstance(rngs, jax.Array):
        return "a key"
    stream = module.rngs if rngs is None else rngs
    return getattr(stream, "tag", "")


def _noise_shape(module: Any, inputs: Array) -> tuple[int, ...]:
    shape = check_input(inputs).shape
    if isinstance(module, Regularizer):
        return module._noise_shape(shape)
    return resolve_noise_shape(shape, None, module.broadcast_dims)
