"""The arguments of recurrent layers, and their checks."""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .._checks import (
    check_array,
    check_choice,
    check_key,
    check_rate,
    check_switch,
    check_whole,
    is_sequence,
    is_static,
    is_whole,
    shown,
)
from .._random.sharding import explicit_sharding
from .._scaling import scaled
from .._typing import Array, Key, Rate, Shape

Variant: TypeAlias = Literal["variational", "no_memory_loss", "zoneout"]


class RecurrentMasks(NamedTuple):
    """The masks of one call on a sequence, True where a value is kept; None if nothing is dropped.

    Attributes:
      inputs: [*batch, features], or [gates, *batch, features] if each gate has its own mask. For a
        convolutional cell, features stands for all feature axes.
      state: with "variational", the mask of the hidden state, of the same form. With
        "no_memory_loss", the mask of the candidate, [*batch, hidden]. With "zoneout", a tuple of
        masks, one for each part of the carry, [*batch, time, hidden] (time first if the layer is
        time_major), True where the new value is taken. The steps are in the order in which the
        layer reads them: for a reversed sequence, the last step comes first.
    """

    inputs: Array | None = None
    state: Any = None


@dataclass(eq=False, repr=False)
class Options(abc.ABC):
    """The options of recurrent layers, which are fields of their modules.

    Attributes:
      dropout: probability to drop a feature of the inputs, in [0, 1]; a number or a scalar array.
      recurrent_dropout: probability to drop a value of the state, in the way that `variant` names.
      time_major, return_carry, reverse, keep_order, unroll: as in Flax's `RNN`.
    """

    dropout: Rate = 0.0
    recurrent_dropout: Rate = 0.0
    variant: Variant = "variational"
    per_gate: bool = False
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    unroll: int = 1

    _dtypes: ClassVar[Any] = jnp.floating  # of the inputs

    @property
    def _feature_axes(self: Any) -> Any:
        return self.cell.num_feature_axes

    @abc.abstractmethod
    def _cell_spec(self, step: Shape) -> "CellSpec":
        """The shapes of the cell for inputs of one step of this shape."""

    @abc.abstractmethod
    def _loop(self, cell: Any, inputs: Array, carry: Any) -> tuple[jax.Array, Callable[..., Any]]:
        """The inputs in the precision of the computation, and the loop over them."""


class CellSpec(NamedTuple):
    """The shapes and the gates of a cell.

    Attributes:
      gates: the number of gates, which can have their own masks; 1 for a cell without gates, None
        if the number is not known.
      has_candidate: whether a step adds new content, the candidate, to what it carries.
      carry: the shape of each part of the carry, without batch axes; the state h is the last part.
      feature_axes: the number of feature axes of the inputs.
    """

    gates: int | None
    has_candidate: bool
    carry: tuple[Shape, ...]
    feature_axes: int = 1


class Sequence(NamedTuple):
    """The axes of the inputs of a call, and the order in which their steps are read.

    Attributes:
      batch, time, features: the sizes of the batch axes, the time axis and the feature axes.
      time_major: whether time is the first axis; otherwise it follows the batch axes.
      lengths: int32 [*batch], the number of steps before the padding; None without padding.
      reverse: whether the last step is read first.
      keep_order: whether the outputs of a reversed sequence are in the order of the inputs.
      sharding: the sharding of the inputs, on a mesh of explicit axes.
    """

    batch: Shape
    time: int
    features: Shape
    time_major: bool
    lengths: jax.Array | None = None
    reverse: bool = False
    keep_order: bool = False
    sharding: NamedSharding | None = None

    @property
    def time_axis(self) -> int:
        return 0 if self.time_major else len(self.batch)

    @property
    def step(self) -> Shape:
        """The shape of the inputs of one step."""
        return (*self.batch, *self.features)

    def all_steps(self, features: Shape) -> Shape:
        """The shape of an array with these features for every step."""
        steps = (self.time, *self.batch) if self.time_major else (*self.batch, self.time)
        return (*steps, *features)

    def sharding_of_mask(self, first: int, *, has_features: bool) -> NamedSharding | None:
        """Returns the sharding of a mask whose batch axes begin at `first`.

        It is that of the inputs along the batch axes and, if the mask has their features and no
        time axis, along the features.
        """
        if self.sharding is None:
            return None
        names = [*self.sharding.spec]
        del names[self.time_axis]
        kept = names if has_features else names[: len(self.batch)]
        return self.sharding.update(spec=P(*[None] * first, *kept))

    def merge_batch(self, x: jax.Array, start: int) -> jax.Array:
        """Makes the batch axes of x, which begin at `start`, one axis."""
        end = start + len(self.batch)
        if end == start + 1:
            return x
        return x.reshape(*x.shape[:start], math.prod(self.batch), *x.shape[end:])


class Layer(NamedTuple):
    """The options of a layer in one call: the arguments of the call, or else the attributes."""

    cell: CellSpec
    sequence: Sequence
    dropout: Rate
    recurrent_dropout: Rate
    variant: Variant
    per_gate: bool
    return_carry: bool

    @property
    def rates(self) -> tuple[Rate, Rate]:
        """The rates of the masks of the inputs and of the state."""
        return self.dropout, self.recurrent_dropout

    @property
    def is_dropping(self) -> bool:
        """Whether a rate may be above 0."""
        return not all(is_static(rate, 0.0) for rate in self.rates)


def read_call(
    module: Any,
    inputs: Any,
    dropout: Rate | None,
    recurrent_dropout: Rate | None,
    time_major: bool | None,
    seq_lengths: Any = None,
    reverse: bool | None = False,
    keep_order: bool | None = False,
    return_carry: bool | None = False,
) -> tuple[Array, Layer]:
    """Checks the arguments of a call. If one is None, the attribute of the module is used.

    Args:
      inputs: [*batch, time, features], or with time first; floating.
      seq_lengths: integers of shape [*batch], the number of steps of each sequence. Later steps are
        padding: they do not change the carry, and their outputs are 0. Traced lengths are clipped
        to [0, time].
      time_major: in place of the attribute.
      reverse: in place of the attribute.
      keep_order: in place of the attribute.
      return_carry: in place of the attribute.
      dropout, recurrent_dropout: in place of the attributes; may be traced.
    """
    time_major = pick_switch(module, "time_major", time_major)
    inputs, sequence = check_inputs(inputs, module._feature_axes, time_major, module._dtypes)
    if seq_lengths is not None:
        lengths = check_lengths(seq_lengths, sequence.batch, sequence.time)
        sequence = sequence._replace(lengths=lengths)
    if dropout is None:
        dropout = module.dropout
    if recurrent_dropout is None:
        recurrent_dropout = module.recurrent_dropout
    layer = Layer(
        module._cell_spec(sequence.step),
        sequence._replace(
            reverse=pick_switch(module, "reverse", reverse),
            keep_order=pick_switch(module, "keep_order", keep_order),
        ),
        scaled(partial(check_rate, name="dropout"), dropout),
        scaled(partial(check_rate, name="recurrent_dropout"), recurrent_dropout),
        check_choice(module.variant, "variant", get_args(Variant)),
        check_switch(module.per_gate, "per_gate"),
        pick_switch(module, "return_carry", return_carry),
    )
    check_gates(layer, type(module).__name__)
    return inputs, layer


def check_gates(layer: Layer, name: str) -> None:
    """Raises if the options of the layer `name` need gates that its cell does not have."""
    reason = "has no gates" if layer.cell.gates else "does not know the gates of its cell"
    if layer.variant == "no_memory_loss" and not layer.cell.has_candidate:
        raise ValueError(
            "variant='no_memory_loss' drops the new content that a gate adds to the state, and "
            f"{name} {reason}; use 'variational' or 'zoneout', or LSTM or GRU"
        )
    if layer.per_gate and layer.cell.gates in (None, 1):
        raise ValueError(
            f"per_gate=True draws a mask for each gate, and {name} {reason}; use LSTM or GRU"
        )


def pick_switch(layer: Any, name: str, given: Any) -> bool:
    """Returns the switch given to a call, or the layer's attribute if it is None."""
    return check_switch(getattr(layer, name) if given is None else given, name)


def check_unroll(unroll: Any) -> int | bool:
    """Returns the number of steps that each iteration of the loop runs; True for all steps."""
    return unroll if isinstance(unroll, bool) else check_whole(unroll, "unroll", least=1)


def check_inputs(
    inputs: Any, feature_axes: int, time_major: bool, dtypes: Any
) -> tuple[Array, Sequence]:
    """Returns the inputs and their axes."""
    inputs = check_array(inputs, "inputs")
    if not jnp.issubdtype(inputs.dtype, dtypes):
        raise TypeError(
            f"a recurrent layer takes inputs of a floating dtype: got dtype {inputs.dtype}"
        )
    first_feature = inputs.ndim - feature_axes
    if first_feature < 1:
        names = ", ".join(["features"] * feature_axes)
        order = f"[time, *batch, {names}]" if time_major else f"[*batch, time, {names}]"
        raise ValueError(f"a recurrent layer takes inputs {order}: got shape {inputs.shape}")
    sizes, features = inputs.shape[:first_feature], inputs.shape[first_feature:]
    time, batch = (sizes[0], sizes[1:]) if time_major else (sizes[-1], sizes[:-1])
    sequence = Sequence(batch, time, features, time_major, sharding=explicit_sharding(inputs))
    return inputs, sequence


def check_lengths(seq_lengths: Any, batch: tuple[int, ...], time: int) -> jax.Array:
    """Returns the lengths as int32. Traced lengths cannot be checked and are clipped."""
    given = seq_lengths
    if is_whole(given) or (is_sequence(given) and all(map(is_whole, given))):
        given = np.asarray(given, np.int32 if is_sequence(given) and not given else None)
    lengths = check_array(given, "seq_lengths")
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"seq_lengths must be integers: got dtype {lengths.dtype}")
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
    if lengths.dtype.itemsize < 4:  # too few bits, perhaps, for the number of steps
        lengths = lengths.astype(np.int32)
    return jnp.clip(lengths, 0, time).astype(np.int32)


def check_carry(carry: Any, expected: Any) -> Any:
    """Returns a carry with the structure, shapes and dtypes of the expected one."""
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
"""The names are those of Keras's merge_mode."""


def check_merge(merge_fn: Any) -> Callable[[jax.Array, jax.Array], Any]:
    """Returns the function that merges the outputs of both directions."""
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
    """Returns the values for the forward and the backward direction; a pair of None for None."""
    if pair is None:
        return None, None
    is_tuple = type(pair) in (tuple, list)  # a NamedTuple, such as RecurrentMasks, is one value
    if not is_tuple or len(pair) != 2:
        kind = ValueError if is_tuple else TypeError
        raise kind(f"{name} must be a pair, one for each direction: got {shown(pair)}")
    return pair[0], pair[1]


def split_key(key: Key, name: str) -> tuple[Any, Any] | None:
    """Returns a key for the forward and one for the backward direction; None for None."""
    return None if key is None else tuple(jax.random.split(check_key(key, name)))


def check_directions(forward: Any, backward: Any, base: type) -> tuple[Any, Any]:
    """Returns two recurrent layers of this package, which must be derived from `base`."""
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
    return forward, backward


class Shared(NamedTuple):
    """The arguments of a call that both directions take."""

    time_major: bool | None
    deterministic: bool | None
    dropout: Rate | None
    recurrent_dropout: Rate | None


def split_call(
    module: Any, base: type, pairs: dict[str, Any], shared: Shared
) -> list[tuple[Any, dict[str, Any]]]:
    """The layers, derived from `base`, and their arguments; None stands for a pair of None."""
    layers = check_directions(module.forward_rnn, module.backward_rnn, base)
    time_major = pick_switch(module, "time_major", shared.time_major)
    same = shared._replace(time_major=time_major)._asdict()
    checked = {name: check_pair(pair, name) for name, pair in pairs.items()}
    each = ({name: pair[i] for name, pair in checked.items()} for i in (0, 1))
    return [(layer, {**same, **own}) for layer, own in zip(layers, each, strict=True)]
