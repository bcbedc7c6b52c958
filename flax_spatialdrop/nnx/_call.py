"""What an NNX module settles first: its options, whether to drop, where the key is, who it is."""

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx

from .. import _host
from .._checks import check_key, check_name, check_switch, shown
from .._choices import Choices
from .._recorder import Where, current_recorder
from .._typing import Array, Key, Rate

if TYPE_CHECKING:
    from ._base import Stochastic

PATH = "path_in_summary"
"""The attribute in which `summarize` tells a module where it is."""

_IF_TRACED = (
    "name it in nnx.jit(..., static_argnames='deterministic'), or pass a model in its mode, "
    "nnx.view(model, deterministic=...)"
)


def regularize(
    module: "Stochastic",
    inputs: Array,
    choices: Choices,
    *,
    rate: Rate | None,
    deterministic: bool | None,
    rngs: Any,
    mask: Array | None,
) -> jax.Array:
    """Drops with the mask given, else with one drawn from `rngs`, else from the module's stream."""
    return _host.regularize(
        inputs,
        choices,
        rate=rate,
        deterministic=is_deterministic(module, deterministic),
        mask=mask,
        find_key=partial(find_key, module, rngs),
        where=partial(where, module, rngs),
    )


def draw_mask(
    module: "Stochastic",
    choices: Choices,
    *,
    rate: Rate | None,
    deterministic: bool | None,
    rngs: Any,
) -> jax.Array:
    """The mask that `regularize` would drop with."""
    return _host.draw_mask(
        choices,
        rate=rate,
        deterministic=is_deterministic(module, deterministic),
        find_key=partial(find_key, module, rngs),
    )


def forked(module: Any, rngs: Any) -> Any:
    """The stream of a module, forked from what its constructor was given; None without."""
    if isinstance(rngs, nnx.Rngs):
        rngs = _stream_of(rngs, module)
    if not isinstance(rngs, nnx.RngStream | None):
        raise TypeError(
            f"{type(module).__name__} takes nnx.Rngs, an nnx.RngStream or None as "
            f"{getattr(module, 'RNGS', 'rngs')}: got {shown(rngs)}; "
            "a key is given at the call, rngs=key"
        )
    return nnx.data(None if rngs is None else rngs.fork())


def find_key(module: Any, rngs: Any) -> Key:
    """A key of `rngs`, else of the module's stream."""
    if rngs is None:
        rngs = module.rngs
    if isinstance(rngs, nnx.Rngs):
        return _stream_of(rngs, module)()
    if isinstance(rngs, nnx.RngStream):
        return rngs()
    if isinstance(rngs, jax.Array | np.ndarray):
        return check_key(rngs, "rngs")
    if rngs is None:
        raise ValueError(
            f"{type(module).__name__} draws a mask and needs a key: got no rngs; pass "
            f"{getattr(module, 'RNGS', 'rngs')}=nnx.Rngs(...) to the constructor, or nnx.Rngs or a "
            "key as rngs= at the call, or set deterministic=True"
        )
    raise TypeError(
        f"{type(module).__name__} takes nnx.Rngs, an nnx.RngStream or a JAX PRNG key as rngs: "
        f"got {shown(rngs)}"
    )


def _stream_of(rngs: nnx.Rngs, module: Any) -> nnx.RngStream:
    stream = check_name(module.rng_collection, "rng_collection")
    try:
        return rngs[stream]
    except KeyError:
        got = f"those of {shown(tuple(rngs))}" if len(rngs) else "none at all"
        raise KeyError(
            f"{type(module).__name__} draws a mask with a key of the stream {shown(stream)} of "
            f"rngs: got {got}; pass nnx.Rngs of that stream"
        ) from None


def where(module: Any, rngs: Any) -> Where:
    """What a summary says of the module."""
    if isinstance(rngs, nnx.Rngs):
        stream = module.rng_collection
    elif isinstance(rngs, jax.Array | np.ndarray):
        stream = "a key"
    else:
        stream = getattr(module.rngs if rngs is None else rngs, "tag", "")
    recorder = current_recorder()
    path = getattr(module, PATH, recorder.place if recorder is not None else ())
    return Where(path, type(module).__name__, stream)


def is_deterministic(module: Any, deterministic: Any) -> bool:
    """The call's `deterministic`, else the module's."""
    chosen = module.deterministic if deterministic is None else deterministic
    if chosen is None:
        raise ValueError(
            f"{type(module).__name__} needs to know whether to drop: got deterministic=None; give "
            "a bool to the constructor or the call, or use nnx.view(model, deterministic=...)"
        )
    return check_switch(chosen, "deterministic", _IF_TRACED)


def check_options(module: Any) -> None:
    """Raises for what is wrong with a module's attributes, whatever the input will be."""
    _host.check_options(module, _IF_TRACED)
