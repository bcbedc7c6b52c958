"""What a recurrent layer is given, and what is wrong with it."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import (
    check_array,
    check_choice,
    check_rate,
    check_switch,
    check_whole,
    is_sequence,
    is_static,
    is_whole,
    shown,
)
from .._typing import Array, Rate

Variant: TypeAlias = Literal["variational", "no_memory_loss", "zoneout"]


class RecurrentMasks(NamedTuple):
    """The masks of one pass over a sequence, True where a value is kept; None where nothing drops.

    Attributes:
      inputs: [*batch, features], or [gates, *batch, features] with a mask for each gate; of a
        convolutional cell with all its axes of features.
      state: the same of the hidden state ("variational"); [*batch, hidden] of the candidate
        ("no_memory_loss"); or True where the new value is taken, [*batch, time, hidden] for each
        part of the carry ("zoneout"), with time first if the layer has it first, and in the order
        in which the steps are read: of a reversed sequence the last step first.
    """

    inputs: Array | None = None
    state: Any = None


class Kind(NamedTuple):
    """What a cell has that can be dropped.

    Attributes:
      gates: how many can have a mask of their own; 1 for none.
      remembers: whether it adds new content to what it carries.
      state: the shape of each part of its carry, without batch axes; h is the last.
      feature_axes: how many axes of the inputs are features.
      lack: what a message says where there are no gates.
    """

    gates: int
    remembers: bool
    state: tuple[tuple[int, ...], ...]
    feature_axes: int = 1
    lack: str = "has no gates"


class Layer(NamedTuple):
    """How a layer drops."""

    kind: Kind
    dropout: Rate
    recurrent_dropout: Rate
    variant: Variant
    per_gate: bool
    time_major: bool

    def batch(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The batch axes of inputs of a shape."""
        features = len(shape) - self.kind.feature_axes
        return shape[1:features] if self.time_major else shape[: features - 1]

    def time_axis(self, shape: tuple[int, ...]) -> int:
        """The axis of time of inputs of a shape."""
        return 0 if self.time_major else len(self.batch(shape))

    def features(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The feature axes of inputs of a shape."""
        return shape[len(shape) - self.kind.feature_axes :]

    @property
    def is_dropping(self) -> bool:
        """Whether any of the rates may be above 0."""
        return not (is_static(self.dropout, 0.0) and is_static(self.recurrent_dropout, 0.0))


def check_layer(layer: Layer, name: str) -> Layer:
    """Returns the layer with its arguments checked, or says what does not go together."""
    layer = layer._replace(
        dropout=check_rate(layer.dropout, "dropout"),
        recurrent_dropout=check_rate(layer.recurrent_dropout, "recurrent_dropout"),
        per_gate=check_switch(layer.per_gate, "per_gate"),
    )
    check_choice(layer.variant, "variant", get_args(Variant))
    if layer.variant == "no_memory_loss" and not layer.kind.remembers:
        raise ValueError(
            "variant='no_memory_loss' drops the new content that gates add to a memory, and "
            f"{name} {layer.kind.lack}; use 'variational' or 'zoneout', or LSTM or GRU"
        )
    if layer.per_gate and layer.kind.gates == 1:
        raise ValueError(
            f"per_gate=True draws a mask for each gate, and {name} {layer.kind.lack}; "
            "use LSTM or GRU"
        )
    return layer


def pick_switch(layer: Any, name: str, given: Any) -> bool:
    """A switch of a call, else the layer's own."""
    return check_switch(getattr(layer, name) if given is None else given, name)


def check_unroll(unroll: Any) -> int | bool:
    """Returns how many steps of the loop are written out; True for all of them."""
    return unroll if isinstance(unroll, bool) else check_whole(unroll, "unroll", least=1)


def check_inputs(
    inputs: Any, feature_axes: int, time_major: bool, dtypes: Any
) -> tuple[Array, tuple[int, ...]]:
    """Returns the inputs and the shape of one step of them, or says that they are no sequence."""
    inputs = check_array(inputs, "inputs")
    if not jnp.issubdtype(inputs.dtype, dtypes):
        raise TypeError(
            f"a recurrent layer takes inputs of a floating dtype: got dtype {inputs.dtype}"
        )
    if inputs.ndim < 1 + feature_axes:
        features = ", ".join(["features"] * feature_axes)
        order = f"[time, *batch, {features}]" if time_major else f"[*batch, time, {features}]"
        raise ValueError(f"a recurrent layer takes inputs {order}: got shape {inputs.shape}")
    time_axis = 0 if time_major else inputs.ndim - feature_axes - 1
    return inputs, (*inputs.shape[:time_axis], *inputs.shape[time_axis + 1 :])


def check_lengths(seq_lengths: Any, batch: tuple[int, ...], time: int) -> jax.Array:
    """Returns the lengths, or says why they are none; those that are traced are clipped."""
    given = seq_lengths
    if is_whole(given) or (is_sequence(given) and all(map(is_whole, given))):
        given = np.asarray(given, object if not given else None)
    lengths = check_array(given, "seq_lengths")
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"seq_lengths must be whole numbers: got dtype {lengths.dtype}")
    if lengths.shape != batch:
        raise ValueError(
            f"seq_lengths needs one length for each sequence, of shape {batch}: "
            f"got shape {lengths.shape}"
        )
    is_known = not isinstance(lengths, jax.core.Tracer) and isinstance(time, int)
    if is_known and lengths.size:
        known = np.asarray(lengths)
        if known.min() < 0 or known.max() > time:
            raise ValueError(
                f"seq_lengths must be from 0 to the {time} steps of the sequence: got from "
                f"{known.min()} to {known.max()}"
            )
    if lengths.dtype.itemsize < 4:  # which may not hold the number of steps
        lengths = lengths.astype(np.int32)
    return jnp.clip(lengths, 0, time).astype(np.int32)


def check_carry(carry: Any, expected: Any) -> Any:
    """Returns a carry, or says why it has not the shapes of the one expected."""
    carry = jax.tree.map(partial(check_array, name="initial_carry"), carry)
    shapes, needed = (jax.tree.map(lambda part: part.shape, tree) for tree in (carry, expected))
    same_tree = jax.tree.structure(carry) == jax.tree.structure(expected)  # type: ignore[operator]
    if not same_tree or shapes != needed:
        raise ValueError(f"initial_carry must have the shapes {shown(needed)}: got {shown(shapes)}")
    dtypes, needed = ([str(part.dtype) for part in jax.tree.leaves(t)] for t in (carry, expected))
    if dtypes != needed:
        raise TypeError(
            f"initial_carry must have the dtypes {', '.join(needed)}, those of the parameters: "
            f"got {', '.join(dtypes)}"
        )
    return jax.tree.map(jnp.asarray, carry)


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
