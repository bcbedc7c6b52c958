"""The arguments of the attention functions of Linen and NNX: their docstrings and their checks."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._checks import (
    check_array,
    check_callable,
    check_scalar,
    check_switch,
    check_whole,
    is_sequence,
    is_whole,
    shown,
)
from .._typing import Array, AxisNames, NoiseShape, Rate, Shape
from .scores import Sides

_UNLIMITED = 2**30
"""A window this wide is no limit; positions plus a smaller one fit into 32 bits."""


class Inputs(NamedTuple):
    """The inputs of attention, and the options that are not about dropout.

    Attributes:
      query: [*batch, queries, heads, depth].
      key: [*batch, keys, heads, depth]. It may have fewer heads than query; a head of key then
        serves a group of heads of query.
      value: [*batch, keys, heads, features]. Like key, it may have fewer heads than query.
      bias: an array that is added before the softmax and broadcasts to [*batch, heads, queries,
        keys].
      mask: True where a query may attend to a key; broadcasts to [*batch, heads, queries, keys].
      dtype: the dtype of the computation; None for the dtype of the inputs.
      precision: see `jax.lax.Precision`.
      module: the module that sows the weights. As in Flax, it sows them before they are dropped.
      is_causal: True lets each query attend only to keys at or before its own position.
      segment_ids: an integer array [*batch, length], such as the number of the document of each
        token in a packed batch; or a pair of them, [*batch, queries] and [*batch, keys]. A query
        attends only to keys with its own number, so padding needs a number of its own. Batch axes
        may have size 1 or be left out.
      window: a pair (left, right): query i attends only to keys i - left to i + right. None does
        not limit a side. One number stands for both sides, as in `jax.nn.dot_product_attention`.
        (n - 1, 0) is a causal sliding window of n keys.
      soft_cap: a number above 0 that limits the scores, as in Gemma 2: soft_cap * tanh(scores /
        soft_cap). The scores are query key^T / sqrt(depth); the bias is added after, and the mask
        is applied last.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    bias: Any
    mask: Any
    dtype: Any
    precision: Any
    module: Any
    is_causal: bool = False
    segment_ids: Any = None
    window: Any = None
    soft_cap: Any = None

    @property
    def arrays(self) -> tuple[jax.Array, jax.Array, jax.Array, Any, Any]:
        """The first arguments of Flax's functions."""
        return self.query, self.key, self.value, self.bias, self.mask

    @property
    def weights_shape(self) -> Shape:
        """[*batch, heads, queries, keys]."""
        *batch, queries, heads, _ = self.query.shape
        return (*batch, heads, queries, self.key.shape[-3])

    @property
    def causal_window(self) -> Sides:
        """The window of checked inputs, which ends at the query itself if they are causal."""
        left, right = self.window
        return left, 0 if self.is_causal else right


class DropoutOptions(NamedTuple):
    """The options that say how weights are dropped.

    Attributes:
      dropout_rate: the probability to drop a weight, in [0, 1]: a number or a scalar array. An
        array is clipped to [0, 1], and NaN drops everything.
      deterministic: if True, nothing is dropped.
      broadcast_dropout: if True, there is one draw per query and key, which the whole batch and all
        heads share; if False, one draw per weight. Ignored if noise_shape or broadcast_dims is
        given.
      noise_shape: the shape of the mask, with one entry for each axis of the weights [*batch,
        heads, queries, keys]: None where each index has its own draw, 1 where the axis shares a
        draw.
      broadcast_dims: the axes of the weights that share a draw, such as (-2,) for the queries,
        instead of noise_shape. At most one of the two may be given.
      span: the number of neighboring keys that are dropped together. A span may begin at any key.
        As in `drop_block`, the rate is the expected fraction of weights that are dropped.
      axis_name: the mapped axes along which masks differ, folded into the key by `fold_in_axes`: a
        name, a tuple of names or None. Initialize a layer with deterministic=True, if an axis is
        not bound there.
    """

    dropout_rate: Rate
    deterministic: bool
    broadcast_dropout: bool
    noise_shape: NoiseShape | None
    broadcast_dims: Sequence[int] | None
    span: int
    axis_name: AxisNames | None


def check_inputs(x: Inputs, promote_dtype: Any, *, grouped: bool = True) -> Inputs:
    """Checks the inputs, and converts query, key and value to one dtype.

    Returns inputs whose bias, mask and segment ids have as many axes as the weights; segment ids
    are a pair, and window is a pair too. If `grouped`, several heads of query may share a head of
    key or value.
    """
    check_callable(promote_dtype, "promote_dtype", "a function of arrays and dtype=")
    if x.dtype is not None and not _is_inexact(x.dtype):
        raise TypeError(
            f"dtype must be None or a floating or complex dtype of JAX: got {shown(x.dtype)}"
        )
    if x.precision is not None and not _is_precision(x.precision):
        raise ValueError(
            "precision must be None, a jax.lax.Precision, its name, or a pair of them: "
            f"got {shown(x.precision)}"
        )
    arrays = _numbers(x.query, "query"), _numbers(x.key, "key"), _numbers(x.value, "value")
    query, key, value = promote_dtype(arrays, dtype=x.dtype)
    _check_shapes(query, key, value, grouped)
    x = x._replace(query=query, key=key, value=value)
    return x._replace(
        bias=_over_weights(x.bias, "bias", x.weights_shape),
        mask=_over_weights(x.mask, "mask", x.weights_shape),
        is_causal=check_switch(x.is_causal, "is_causal"),
        segment_ids=_segments(x.segment_ids, x.weights_shape),
        window=_sides(x.window, x.weights_shape),
        soft_cap=_cap(x.soft_cap, query.dtype),
    )


def _is_inexact(dtype: Any) -> bool:
    try:
        return jnp.issubdtype(jax.dtypes.canonicalize_dtype(dtype), jnp.inexact)
    except (TypeError, ValueError):
        return False


def _is_precision(precision: Any) -> bool:
    x = jax.ShapeDtypeStruct((1,), jnp.float32)
    try:
        jax.eval_shape(lambda x: jax.lax.dot(x, x, precision=precision), x)
    except (TypeError, ValueError):
        return False
    return True


def _numbers(array: Any, name: str) -> Array:
    numbers = check_array(array, name)
    if not jnp.issubdtype(numbers.dtype, jnp.number):
        looks_like_key = jnp.issubdtype(numbers.dtype, jax.dtypes.prng_key)
        advice = "; a PRNG key is passed as dropout_rng" if looks_like_key else ""
        raise TypeError(f"{name} must have a dtype of numbers: got dtype {numbers.dtype}{advice}")
    return numbers


def _check_shapes(query: Array, key: Array, value: Array, grouped: bool) -> None:
    shapes = f"query.shape={query.shape}, key.shape={key.shape} and value.shape={value.shape}"
    if not query.ndim == key.ndim == value.ndim >= 3:
        raise ValueError(
            "query, key and value must have the same axes, [*batch, length, heads, features]: "
            f"got {shapes}"
        )
    if not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        raise ValueError(f"query, key and value must have the same batch axes: got {shapes}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have the same number of features: got {shapes}")
    if key.shape[-3] != value.shape[-3]:
        raise ValueError(f"key and value must have the same length: got {shapes}")
    heads = query.shape[-2]
    others = {key.shape[-2], value.shape[-2]} - {heads}
    if others and not grouped:
        raise ValueError(
            f"query, key and value must have the same number of heads: got {shapes}; "
            "blockwise_attention takes fewer heads of key and value"
        )
    if any(own == 0 or heads % own != 0 for own in others):
        raise ValueError(f"the heads of key and of value must divide those of query: got {shapes}")


def _over_weights(array: Any, name: str, shape: Shape) -> Array | None:
    """Returns a bias or mask with as many axes as the weights, whose shape is `shape`."""
    if array is None:
        return None
    if isinstance(array, bool | int | float):
        array = jnp.asarray(array)
    given = check_array(array, name)
    if given.dtype != jnp.bool_ and not jnp.issubdtype(given.dtype, jnp.number):
        raise TypeError(f"{name} must be an array of bools or numbers: got dtype {given.dtype}")
    missing = (1,) * (len(shape) - given.ndim)
    sizes = missing + given.shape
    if len(sizes) > len(shape) or any(
        own not in (1, size) for own, size in zip(sizes, shape, strict=True)
    ):
        raise ValueError(
            f"{name} must broadcast to the weights, [*batch, heads, queries, keys], whose shape is "
            f"{shape}: got {name}.shape={given.shape}"
        )
    return given.reshape(sizes) if missing else given


def _segments(ids: Any, shape: Shape) -> tuple[Array, Array] | None:
    """Returns ids of queries and of keys, with as many axes as the weights, whose shape it is."""
    if ids is None:
        return None
    *batch, _, queries, keys = shape
    if is_sequence(ids):
        if len(ids) != 2 or any(map(is_sequence, ids)):
            raise ValueError(
                "segment_ids must be an array, or a pair of arrays for queries and keys: "
                f"got {shown(ids)}"
            )
        names = "segment_ids[0]", "segment_ids[1]"
        of_queries, of_keys = ids
    else:
        names = "segment_ids", "segment_ids"
        of_queries = of_keys = ids
        if queries != keys:
            raise ValueError(
                "segment_ids must be a pair of arrays for queries and keys where their lengths "
                f"differ: got one for {queries} queries and {keys} keys"
            )
    return (
        _ids(of_queries, names[0], "queries", (*batch, queries))[..., None, :, None],
        _ids(of_keys, names[1], "keys", (*batch, keys))[..., None, None, :],
    )


def _ids(array: Any, name: str, axis: str, shape: Shape) -> Array:
    """Returns ids with as many axes as `shape`: int32, each axis of its size, or 1 in the batch."""
    ids = check_array(array, name)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"{name} must be an array of integers: got dtype {ids.dtype}")
    missing = (1,) * (len(shape) - ids.ndim)
    sizes = missing + ids.shape
    if (
        len(sizes) > len(shape)
        or sizes[-1] != shape[-1]
        or any(own not in (1, size) for own, size in zip(sizes, shape, strict=True))
    ):
        raise ValueError(
            f"{name} must broadcast along the batch to [*batch, {axis}], whose shape is {shape}: "
            f"got {name}.shape={ids.shape}"
        )
    return ids.reshape(sizes).astype(np.int32)


def _sides(window: Any, shape: Shape) -> Sides:
    """Returns the pair (left, right), with None for no limit."""
    sides = tuple(window) if is_sequence(window) else (window, window)
    known = all(side is None or is_whole(side) for side in sides)
    if len(sides) != 2 or not known:
        raise (ValueError if known else TypeError)(
            "window must be None, an integer, or a pair (left, right) of integers or None, known "
            f"when tracing: got {shown(window)}"
        )
    checked = [
        None if side is None else check_whole(side, "each side of window", least=0, unit="keys")
        for side in sides
    ]
    *_, queries, keys = shape
    if checked != [None, None] and queries == 1 != keys:
        raise ValueError(
            "window counts from the position of each query, and a single query has position 0: got "
            f"window={shown(window)} for one query and {keys} keys; a layer that decodes passes a "
            "mask instead"
        )
    left, right = (None if side is None or side >= _UNLIMITED else side for side in checked)
    return left, right


def _cap(soft_cap: Any, dtype: Any) -> float | None:
    """Returns None or a float above 0; `dtype` is that of the scores."""
    if soft_cap is None:
        return None
    float32, limits = np.finfo(np.float32), "above 0 and finite in float32"
    if not isinstance(soft_cap, Real) or isinstance(soft_cap, bool):
        raise TypeError(f"soft_cap must be a number, known when tracing: got {shown(soft_cap)}")
    cap = float(check_scalar(soft_cap, "soft_cap", most=float(float32.max), limits=limits))
    if cap < float32.tiny:
        raise ValueError(f"soft_cap must be {limits}: got soft_cap={soft_cap}")
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"soft_cap limits real scores: got query and key of {dtype}")
    return cap


def check_sown(module: Any) -> None:
    """Raises unless `module` is None or can sow the weights."""
    if module is not None and not hasattr(module, "sow"):
        raise TypeError(
            f"module must be None or the Flax module that sows the weights: got {shown(module)}"
        )


def check_einsums(precision: Any, functions: dict[str, Any]) -> None:
    """Raises for combinations of Linen's einsum functions that Linen does not accept."""
    given = [name for name, function in functions.items() if function is not None]
    for name in given:
        check_callable(functions[name], name, "None or a function")
    own = [name for name in given if name != "einsum_dot_general"]
    if len(own) == 1:
        raise ValueError(
            "qk_attn_weights_einsum and attn_weights_value_einsum must be specified together: "
            f"got {own[0]} alone"
        )
    if own and (precision is not None or len(given) > len(own)):
        raise ValueError(
            "qk_attn_weights_einsum and attn_weights_value_einsum are mutually exclusive with "
            "precision and einsum_dot_general: got both"
        )
