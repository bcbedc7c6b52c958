"""What drops in a Linen model: a forward pass, watched."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from .._apply import check_input
from .._noise_shape import resolve_noise_shape
from .._rates import check_rate
from .._summary import Recorder, Summary, draws, kept_for_backward, with_zeros
from .._typing import Array, Key
from ._call import find_key, is_deterministic
from ._intercept import intercept
from ._regularizer import Regularizer


def summarize(
    model: nn.Module, *args: Any, rngs: dict[str, jax.Array] | jax.Array, **kwargs: Any
) -> Summary:
    """Lists every regularizer that a forward pass of a model uses, and what it does there.

        kept bytes = bytes of the residuals of jax.vjp(regularizer, x)

    The pass is `model.apply(variables, *args, rngs=rngs, **kwargs)`, with variables of zeros. It
    is compiled and run, but of what it computes only the keys are needed, and XLA leaves the rest
    out. Listed are the modules of this package and `flax.linen.Dropout`; dropout inside Flax's
    attention layers, and functions called without a module, are not.

    Args:
      model: any Linen module, not bound.
      *args: what the model is called with: arrays, jax.ShapeDtypeStruct in their place, anything.
      rngs: keys by stream, as for `apply`; the parameters need none.
      **kwargs: as args; of `apply` itself, `method` may be among them.

    Returns:
      A Summary: `print` it for the table; `sites` and `remarks` hold the same as values.

    Raises:
      ValueError, TypeError, flax.errors.InvalidRngError: as the model's own call.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import SpatialDropout1D, summarize
      >>> model = nn.Sequential([nn.Dense(4), SpatialDropout1D(0.5, deterministic=False)])
      >>> summary = summarize(model, jnp.ones((2, 3, 5)), rngs={"dropout": jax.random.key(0)})
      >>> summary.sites[0].noise_shape, summary.sites[0].coin_flips
      ((2, 1, 4), 8)

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    if not isinstance(rngs, dict):
        rngs = {"params": rngs}  # as Flax reads one key
    recorder = Recorder()

    def forward() -> None:
        inputs, options = with_zeros((args, kwargs))
        keys = {"params": jax.random.key(0), **rngs}
        shapes = jax.eval_shape(lambda: model.init(keys, *inputs, **options))
        variables = with_zeros(shapes)
        with intercept(_Watch(recorder), key=recorder):
            model.apply(variables, *inputs, rngs=rngs, mutable=True, **options)

    jax.jit(forward)()
    return recorder.summary()


class _Watch:
    """An interceptor of nn.intercept_methods that notes each regularizer's call."""

    def __init__(self, recorder: Recorder):
        self._recorder = recorder
        self._inside = False  # of a call that is noted already

    def __call__(self, call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
        is_regularizer = isinstance(context.module, Regularizer | nn.Dropout)
        if not is_regularizer or context.method_name != "__call__" or self._inside:
            return call(*args, **kwargs)
        self._inside = True
        try:
            return self._noted(call, context.module, *args, **kwargs)
        finally:
            self._inside = False

    def _noted(
        self,
        call: Callable,
        module: Any,
        inputs: Array,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        mask: Array | None = None,
        **options: Any,
    ) -> jax.Array:
        rate = options.get("rate")
        rate = check_rate(module.rate if rate is None else rate)
        noise_shape = _noise_shape(module, inputs)
        off = is_deterministic(module, deterministic)
        stream = module.rng_collection if rng is None else "a key"
        drawn = draws(rate, off, mask)
        if drawn:
            rng = find_key(module, rate, rng)
        given = {"rng": rng, "mask": mask}
        options |= {name: value for name, value in given.items() if value is not None}
        alone = module.clone(parent=None, deterministic=off)
        self._recorder.note(
            module.path,
            _name(module),
            inputs,
            noise_shape,
            rate=rate,
            deterministic=off,
            stream=stream,
            key=rng if drawn else None,
            mask=mask,
            kept_bytes=kept_for_backward(lambda x: alone.apply({}, x, **options), inputs),
        )
        if deterministic is not None:
            options["deterministic"] = deterministic
        return call(inputs, **options)


def _name(module: nn.Module) -> str:
    name = type(module).__name__
    return f"flax.linen.{name}" if type(module) is nn.Dropout else name


def _noise_shape(module: Any, inputs: Array) -> tuple[int, ...]:
    shape = check_input(inputs).shape
    if isinstance(module, Regularizer):
        return module._noise_shape(shape)
    return resolve_noise_shape(shape, None, module.broadcast_dims)
