"""What a Linen module settles first: its options, whether to drop, where the key is, who it is."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
from flax.errors import InvalidRngError

from .. import _host
from .._checks import check_key, check_name, check_switch, shown
from .._choices import Choices
from .._recorder import Where
from .._typing import Array, Key, Rate

_IF_TRACED = (
    "name it in jax.jit(..., static_argnames='deterministic'), or give its position in "
    "nn.remat(..., static_argnums=...), which counts the module itself as 0"
)


class Stochastic(nn.Module):
    """A module of this package: its options are checked where it is made."""

    def __post_init__(self) -> None:
        _host.check_options(self, _IF_TRACED)
        super().__post_init__()


def regularize(
    module: nn.Module,
    inputs: Array,
    choices: Choices,
    *,
    rate: Rate | None,
    deterministic: bool | None,
    rng: Key,
    mask: Array | None,
) -> jax.Array:
    """Drops with the mask given, else with one drawn from `rng`, else from the module's stream."""
    return _host.regularize(
        inputs,
        choices,
        rate=rate,
        deterministic=is_deterministic(module, deterministic),
        mask=mask,
        find_key=partial(find_key, module, rng),
        where=partial(where, module, rng),
    )


def draw_mask(
    module: nn.Module,
    choices: Choices,
    *,
    rate: Rate | None,
    deterministic: bool | None,
    rng: Key,
) -> jax.Array:
    """The mask that `regularize` would drop with."""
    return _host.draw_mask(
        choices,
        rate=rate,
        deterministic=is_deterministic(module, deterministic),
        find_key=partial(find_key, module, rng),
    )


def find_key(module: nn.Module, rng: Key) -> Key:
    """The key given, else one of the module's stream."""
    if rng is not None:
        return check_key(rng, "rng")
    stream = check_name(module.rng_collection, "rng_collection")
    try:
        return module.make_rng(stream)
    except InvalidRngError:
        name = shown(stream)
        raise InvalidRngError(
            f"{type(module).__name__} draws a mask and needs a key of the stream {name}: "
            f"got none; pass rngs={{{name}: key}} to apply, or rng=key at the call, or set "
            "deterministic=True"
        ) from None


def where(module: nn.Module, rng: Key) -> Where:
    """What a summary says of the module."""
    cls = type(module)
    name = "flax.linen.Dropout, run here" if cls is nn.Dropout else cls.__name__
    return Where(module.path, name, module.rng_collection if rng is None else "a key")


def is_deterministic(module: nn.Module, deterministic: Any) -> bool:
    """Merges the module's `deterministic` and the call's, of which just one must be given."""
    given = [value for value in (module.deterministic, deterministic) if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"deterministic must be given to the constructor or to the call of "
            f"{type(module).__name__}, just once: got {'it twice' if given else 'neither'}"
        )
    return check_switch(given[0], "deterministic", _IF_TRACED)
