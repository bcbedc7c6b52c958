"""What every call of a Linen module here does: settle the arguments, find the key, drop."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .._apply import apply_mask, check_mask
from .._dropout import drop
from .._mask import sample_mask
from .._noise_shape import check_mask_fits
from .._rates import check_rate, is_static
from .._typing import Array, Key, Rate


def regularize(
    module: nn.Module,
    inputs: Array,
    noise_shape: tuple[int, ...],
    *,
    rate: Rate,
    deterministic: bool | None,
    rng: Key,
    mask: Array | None,
) -> jax.Array:
    """Drops with the mask given, else with one drawn from `rng`, else from the module's stream."""
    rate = check_rate(rate)
    if is_deterministic(module, deterministic) or is_static(rate, 0.0):
        return jnp.asarray(inputs)
    if mask is not None:
        check_mask_fits(check_mask(mask).shape, noise_shape, inputs.shape)
        return apply_mask(inputs, mask, rate)
    return drop(find_key(module, rate, rng), inputs, rate, noise_shape)


def draw_mask(
    module: nn.Module,
    noise_shape: tuple[int, ...],
    *,
    rate: Rate,
    deterministic: bool | None,
    rng: Key,
) -> jax.Array:
    """The mask that `regularize` would drop with, all True where it would not drop."""
    rate = check_rate(rate)
    if is_deterministic(module, deterministic) or is_static(rate, 0.0):
        return jnp.ones(noise_shape, bool)
    return sample_mask(find_key(module, rate, rng), rate, noise_shape)


def find_key(module: nn.Module, rate: Rate, rng: Key) -> Key:
    """The key given, else one of the module's stream, which is asked only if a mask is drawn."""
    if rng is None and not is_static(rate, 1.0):
        return module.make_rng(module.rng_collection)
    return rng


def is_deterministic(module: nn.Module, deterministic: Any) -> bool:
    """Merges the module's `deterministic` and the call's, of which just one must be given."""
    merged = nn.merge_param("deterministic", module.deterministic, deterministic)
    if isinstance(merged, jax.core.Tracer):
        raise TypeError(
            "deterministic must be a Python bool, known when tracing: got a traced value; name it "
            "in jax.jit(..., static_argnames='deterministic'), or give its position in "
            "nn.remat(..., static_argnums=...), which counts the module itself as 0"
        )
    return bool(merged)
