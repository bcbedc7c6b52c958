"""What a recurrent layer is given, and what is wrong with it."""

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ._rates import check_rate
from ._recurrent_step import Carry, Cell
from ._typing import Array, Rate

Variant: TypeAlias = Literal["variational", "no_memory_loss", "zoneout"]


class RecurrentMasks(NamedTuple):
    """The masks of one pass over a sequence, True where a value is kept; None where nothing drops.

    Attributes:
      inputs: [*batch, features], or [gates, *batch, features] with a mask for each gate.
      state: the same of the hidden state ("variational"); [*batch, hidden] of the candidate
        ("no_memory_loss"); or True where the new value is taken, [*batch, time, hidden] for each
        part of the carry ("zoneout"), with time first if the layer has it first.
    """

    inputs: Array | None = None
    state: Any = None


class Layer(NamedTuple):
    """How a layer drops."""

    cell: Cell
    hidden: int
    dropout: Rate
    recurrent_dropout: Rate
    variant: Variant
    per_gate: bool
    time_major: bool


def check_layer(layer: Layer, name: str) -> Layer:
    """Returns the layer with its rates checked, or says what does not go together."""
    if layer.variant not in get_args(Variant):
        raise ValueError(
            "variant must be 'variational', 'no_memory_loss' or 'zoneout': "
            f"got variant={layer.variant!r}"
        )
    if layer.variant == "no_memory_loss" and not layer.cell.remembers:
        raise ValueError(
            f"variant='no_memory_loss' drops the new content that gates add to a memory, and "
            f"{name} has neither; use 'variational' or 'zoneout'"
        )
    if layer.per_gate and layer.cell.gates == 1:
        raise ValueError(f"per_gate=True draws a mask for each gate, and {name} has no gates")
    return layer._replace(
        dropout=check_rate(layer.dropout), recurrent_dropout=check_rate(layer.recurrent_dropout)
    )


def check_inputs(layer: Layer, inputs: Any) -> Array:
    """Returns the inputs, or says that they are no sequence."""
    if not isinstance(inputs, jax.Array | np.ndarray) or not jnp.issubdtype(
        inputs.dtype, jnp.floating
    ):
        got = f"dtype {inputs.dtype}" if hasattr(inputs, "dtype") else repr(inputs)
        raise TypeError(f"a recurrent layer takes inputs of a floating dtype: got {got}")
    if inputs.ndim < 2:
        order = "[time, *batch, features]" if layer.time_major else "[*batch, time, features]"
        raise ValueError(f"a recurrent layer takes inputs {order}: got shape {inputs.shape}")
    return inputs


def check_lengths(seq_lengths: Any, batch: tuple[int, ...], time: int) -> jax.Array:
    """Returns the lengths, or says why they are none; those that are traced are not looked at."""
    lengths = jnp.asarray(seq_lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"seq_lengths must be whole numbers: got dtype {lengths.dtype}")
    if lengths.shape != batch:
        raise ValueError(
            f"seq_lengths needs one length for each sequence, of shape {batch}: "
            f"got shape {lengths.shape}"
        )
    if not isinstance(seq_lengths, jax.core.Tracer) and lengths.size:
        known = np.asarray(seq_lengths)
        if known.min() < 0 or known.max() > time:
            raise ValueError(
                f"seq_lengths must be from 0 to the {time} steps of the sequence: got from "
                f"{known.min()} to {known.max()}"
            )
    return lengths


def check_carry(carry: Any, batch: tuple[int, ...], hidden: int, parts: int) -> Carry:
    """Returns the parts of a carry, or says why it does not fit."""
    found = tuple(carry) if isinstance(carry, tuple | list) else (carry,)
    shapes = tuple(np.shape(part) for part in found)
    if len(found) != parts or any(shape != (*batch, hidden) for shape in shapes):
        raise ValueError(
            f"initial_carry must have {parts} of shape {(*batch, hidden)}: got shapes {shapes}"
        )
    return tuple(jnp.asarray(part) for part in found)
