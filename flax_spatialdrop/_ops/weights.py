"""DropConnect: dropout of a model's weights, chosen by their paths, in place of its activations."""

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .._apply import Recipe, drop
from .._checks import check_callable, check_key, check_rate, needs_no_key, shown
from .._typing import Key, Rate

Weights = TypeVar("Weights")

Paths: TypeAlias = str | re.Pattern[str] | Callable[[str], bool] | None
"""Which weights: a regular expression to search their paths for, a predicate, None for all."""

_BOX = jax.tree_util.GetAttrKey("value")
"""The last step to a value in one of Flax's boxes: an NNX Variable or a Linen Partitioned."""

_LONGEST = 200
"""How many characters of paths an error lists."""


def drop_connect(key: Key, weights: Weights, rate: Rate, *, paths: Paths = None) -> Weights:
    """Drops single weights of a model, of all its parameters or of those with certain paths.

        W -> W * M / (1 - rate),   M ~ Bernoulli(1 - rate), one draw for each weight

    Call it on the parameters before the forward pass of a training step. In a recurrent network
    the weights dropped are then the same at every step of a sequence, as in AWD-LSTM. The masks
    are one for the batch; Wan et al. draw them for each example: `jax.vmap` over keys does.

    A path is the keys to a weight, joined with "/", such as "params/cell/hi/kernel". Flax's boxes
    (NNX variables, Linen's partitioned parameters) add nothing to it. The mask depends on the key,
    the path, the shape and the rate, and not on which other weights there are: it is
    `sample_mask(jax.random.fold_in(key, zlib.crc32(path.encode())), rate, weight.shape)`.

    Args:
      key: as in `dropout`.
      weights: a pytree of arrays, such as Linen's variables or `nnx.state(model, nnx.Param)`.
      rate: as in `dropout`; the probability to drop a weight.
      paths: which weights are dropped: a regular expression, found anywhere in their paths
        (`re.search`), or a function of a path that says so. None: all, biases and the parameters
        of norms too.

    Returns:
      The same tree; weights dropped have their shape, dtype and sharding, others are returned as
      they are.

    Raises:
      ValueError: for paths that choose no weight or are no regular expression, two chosen weights
        with the same path, a number for rate outside [0, 1], a missing key.
      TypeError: for a chosen weight that is not a floating or complex array, or an argument of
        another type.

    Example:
      The recurrent kernels of an LSTM:

      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import drop_connect
      >>> from flax_spatialdrop.linen import LSTM
      >>> layer, x = LSTM(8), jnp.ones((2, 5, 4))
      >>> params = layer.init(jax.random.key(0), x, deterministic=True)
      >>> dropped = drop_connect(jax.random.key(1), params, 0.5, paths="h./kernel")
      >>> y = layer.apply(dropped, x, deterministic=True)

      All but the biases:

      >>> dropped = drop_connect(jax.random.key(1), params, 0.5, paths=lambda p: "bias" not in p)

    Reference: Wan et al., Regularization of Neural Networks using DropConnect, 2013,
    http://proceedings.mlr.press/v28/wan13.html; Merity et al., Regularizing and Optimizing LSTM
    Language Models, 2018, https://arxiv.org/abs/1708.02182
    """
    rate = check_rate(rate)
    is_chosen = _predicate(paths)
    steps_and_leaves, tree = jax.tree_util.tree_flatten_with_path(weights)
    siblings = Counter(steps[:-1] for steps, _ in steps_and_leaves)
    named = [(_name(steps, siblings[steps[:-1]] == 1), leaf) for steps, leaf in steps_and_leaves]
    chosen = [bool(is_chosen(path)) for path, _ in named]
    if not any(chosen):
        raise ValueError(
            "paths must choose at least one of the weights: "
            f"got paths={shown(paths)}, and weights at {_listed([path for path, _ in named])}"
        )
    to_drop = [both for both, is_dropped in zip(named, chosen, strict=True) if is_dropped]
    for path, leaf in to_drop:
        _check_weight(path, leaf)
    twins = [path for path, count in Counter(path for path, _ in to_drop).items() if count > 1]
    if twins:
        raise ValueError(
            "each of the weights must have a path of its own, since its mask depends on it: "
            f"got several at {_listed(twins)}"
        )
    if needs_no_key(rate):
        key = None
    else:
        jax.random.bits(check_key(key), (0,))  # draws nothing, but marks the key as used
    dropped = [
        drop(_key_of(path, key), leaf, rate, Recipe(leaf.shape)) if is_dropped else leaf
        for (path, leaf), is_dropped in zip(named, chosen, strict=True)
    ]
    return jax.tree.unflatten(tree, dropped)


def _key_of(path: str, key: Key) -> Key:
    # crc32 is the same in every process, which Python's hash of a string is not.
    return None if key is None else jax.random.fold_in(key, zlib.crc32(path.encode()))


def _name(steps: tuple[Any, ...], is_alone: bool) -> str:
    # What lies in a box has no sibling; a field that users call "value" may have some.
    if is_alone and steps and steps[-1] == _BOX:
        steps = steps[:-1]
    return jax.tree_util.keystr(steps, simple=True, separator="/")


def _predicate(paths: Paths) -> Callable[[str], object]:
    if paths is None:
        return lambda path: True
    if isinstance(paths, str | re.Pattern):
        try:
            return re.compile(paths).search
        except re.error as error:
            raise ValueError(
                f"paths must be a regular expression: got paths={shown(paths)}, {error}"
            ) from None
    return check_callable(paths, "paths", "a regular expression or a function of a path")


def _listed(names: list[str]) -> str:
    if not names:
        return "no path at all"
    lengths = itertools.accumulate(len(shown(name)) + 2 for name in names)
    count = max(1, sum(length <= _LONGEST for length in lengths))
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(shown, names[:count])) + more


def _check_weight(path: str, leaf: Any) -> None:
    if not isinstance(leaf, jax.Array | np.ndarray) or isinstance(leaf, np.ma.MaskedArray):
        got = shown(leaf)
    elif not jnp.issubdtype(leaf.dtype, jnp.inexact):
        got = f"dtype {leaf.dtype}"
    else:
        return
    raise TypeError(
        f"the weight at {shown(path)} must be a floating or complex array, since kept weights are "
        f"scaled by 1 / (1 - rate): got {got}; leave it out with paths"
    )
