"""What a layer that reads in two directions is given, and how it merges what they return."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

import jax
import jax.numpy as jnp

from ._checks import is_sequence, shown

Merge: TypeAlias = (
    Callable[[jax.Array, jax.Array], Any] | Literal["concat", "sum", "mul", "ave"] | None
)

_MERGES: dict[str | None, Callable[[jax.Array, jax.Array], Any]] = {
    "concat": lambda forward, backward: jnp.concatenate([forward, backward], axis=-1),
    "sum": jnp.add,
    "mul": jnp.multiply,
    "ave": lambda forward, backward: (forward + backward) / 2,
    None: lambda forward, backward: (forward, backward),
}
"""Keras's words for its merge_mode."""


def check_merge(merge_fn: Any) -> Callable[[jax.Array, jax.Array], Any]:
    """Returns the function of both outputs that is meant."""
    if callable(merge_fn):
        return cast(Callable[..., Any], merge_fn)
    if not isinstance(merge_fn, str | None) or merge_fn not in _MERGES:
        kind = ValueError if isinstance(merge_fn, str) else TypeError
        raise kind(
            "merge_fn must be a function of the outputs of both directions, or 'concat', 'sum', "
            f"'mul', 'ave' or None: got {shown(merge_fn)}"
        )
    return _MERGES[merge_fn]


def check_pair(pair: Any, name: str) -> tuple[Any, Any]:
    """Returns what each direction is given, forward first; None for both without."""
    if pair is None:
        return None, None
    if type(pair) not in (tuple, list):  # a tuple with names, such as RecurrentMasks, is for one
        raise TypeError(f"{name} must be a pair, one for each direction: got {shown(pair)}")
    if len(pair) != 2:
        raise ValueError(f"{name} must be a pair, one for each direction: got {shown(pair)}")
    return pair[0], pair[1]


def check_directions(forward: Any, backward: Any, base: type) -> None:
    """Raises unless these are two recurrent layers of this package, derived from `base`."""
    for name, layer in {"forward_rnn": forward, "backward_rnn": backward}.items():
        if not isinstance(layer, base):
            kind = type(layer)
            got = shown(layer) if is_sequence(layer) else f"{kind.__module__}.{kind.__name__}"
            raise TypeError(
                "Bidirectional takes recurrent layers of this package (RNN(cell) for any cell): "
                f"got {name}={got}"
            )
    if forward is backward:
        raise ValueError("Bidirectional takes a layer for each direction: got the same one twice")
