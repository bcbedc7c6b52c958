"""What every call of an NNX module here does: settle the arguments, find the key, drop."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from .._apply import apply_mask, check_mask
from .._dropout import drop
from .._mask import sample_mask
from .._noise_shape import check_mask_fits
from .._rates import check_rate, is_static
from .._typing import Array, Key, Rate

if TYPE_CHECKING:
    from ._regularizer import Regularizer


def regularize(
    module: "Regularizer",
    inputs: Array,
    noise_shape: tuple[int, ...],
    *,
    rate: Rate,
    deterministic: bool | None,
    rngs: Any,
    mask: Array | None,
) -> jax.Array:
    """Drops with the mask given, else with one drawn from `rngs`, else from the module's stream."""
    rate = check_rate(rate)
    if is_deterministic(module, deterministic) or is_static(rate, 0.0):
        return jnp.asarray(inputs)
    if mask is not None:
        check_mask_fits(check_mask(mask).shape, noise_shape, inputs.shape)
        return apply_mask(inputs, mask, rate)
    return drop(find_key(module, rate, rngs), inputs, rate, noise_shape)


def draw_mask(
    module: "Regularizer",
    noise_shape: tuple[int, ...],
    *,
    rate: Rate,
    deterministic: bool | None,
    rngs: Any,
) -> jax.Array:
    """The mask that `regularize` would drop with, all True where it would not drop."""
    rate = check_rate(rate)
    if is_deterministic(module, deterministic) or is_static(rate, 0.0):
        return jnp.ones(noise_shape, bool)
    return sample_mask(find_key(module, rate, rngs), rate, noise_shape)


def find_key(module: "Regularizer", rate: Rate, rngs: Any) -> Key:
    """A key of `rngs`, else of the module's stream, which is asked only if a mask is drawn."""
    if is_static(rate, 1.0):
        return None
    if rngs is None:
        rngs = module.rngs
    if isinstance(rngs, nnx.Rngs):
        return rngs[module.rng_collection]()
    if isinstance(rngs, nnx.RngStream):
        return rngs()
    if isinstance(rngs, jax.Array):
        return rngs
    if rngs is None:
        raise ValueError(
            f"{type(module).__name__} draws a mask and needs a key: got no rngs; pass "
            "rngs=nnx.Rngs(...) to the constructor, or nnx.Rngs or a key as rngs= at the call, or "
            "set deterministic=True"
        )
    raise TypeError(
        f"{type(module).__name__} takes nnx.Rngs, an nnx.RngStream or a JAX PRNG key as rngs: "
        f"got {rngs!r}"
    )


def is_deterministic(module: "Regularizer", deterministic: Any) -> bool:
    """The call's `deterministic`, else the module's."""
    chosen = module.deterministic if deterministic is None else deterministic
    if chosen is None:
        raise ValueError(
            f"{type(module).__name__} needs to know whether to drop: got deterministic=None; give "
            "a bool to the constructor or the call, or use nnx.view(model, deterministic=...)"
        )
    if isinstance(chosen, jax.core.Tracer):
        raise TypeError(
            "deterministic must be a Python bool, known when tracing: got a traced value; name it "
            "in nnx.jit(..., static_argnames='deterministic'), or pass a model in its mode, "
            "nnx.view(model, deterministic=...)"
        )
    return bool(chosen)
