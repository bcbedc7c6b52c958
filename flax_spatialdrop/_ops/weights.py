"""DropConnect: dropout of the weights of a model, selected by their paths."""

import itertools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax

from .._apply import Recipe, drop
from .._checks import (
    check_callable,
    check_input,
    check_rate,
    listed,
    needs_no_key,
    shown,
)
from .._random.keys import named_keys
from .._typing import Key, Rate

Weights = TypeVar("Weights")

Paths: TypeAlias = str | re.Pattern[str] | Callable[[str], bool] | None
"""The weights to drop: a regular expression or a predicate for their paths; None for all."""

_BOX = jax.tree_util.GetAttrKey("value")
"""The last key in the path of a value in a box of Flax (an NNX Variable, a Linen Partitioned)."""


def drop_connect(key: Key, weights: Weights, rate: Rate, *, paths: Paths = None) -> Weights:
    """Drops individual weights of a model, in all its parameters or in those with certain paths.

        W -> W * M / (1 - rate),   M ~ Bernoulli(1 - rate), one draw per weight

    Call it on the parameters before the forward pass of a training step. A recurrent network then
    drops the same weights at every step of a sequence, as AWD-LSTM does. The whole batch shares the
    masks. To draw masks for each example, as Wan et al. do, use `jax.vmap` over keys.

    The path of an array is its keys in the tree, joined with "/", such as "params/cell/hi/kernel".
    Flax's boxes (NNX variables, Linen's partitioned parameters) add nothing to it. The mask does
    not depend on other weights in the tree: it is
    `sample_mask(jax.random.fold_in(key, zlib.crc32(path.encode())), rate, weight.shape)`.

    Args:
      key, rate: as in `dropout`.
      weights: a pytree of arrays, such as Linen's variables or `nnx.state(model, nnx.Param)`.
      paths: the arrays to drop weights of: a regular expression that `re.search` finds in their
        paths, or a function from a path to a bool. None selects all arrays, including biases and
        the parameters of normalization layers.

    Returns:
      The same tree. Selected arrays keep their shape, dtype and sharding; the others are returned
      unchanged.

    Raises:
      ValueError: if paths selects no array or is not a valid regular expression, or two selected
        arrays have the same path, or paths of the same crc32; else as in `dropout`.
      TypeError: if a selected leaf is not a floating or complex array; else as in `dropout`.

    Example:
      Drop weights of the recurrent kernels of an LSTM:

      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import drop_connect
      >>> from flax_spatialdrop.linen import LSTM
      >>> layer, x = LSTM(8), jnp.ones((2, 5, 4))
      >>> params = layer.init(jax.random.key(0), x, deterministic=True)
      >>> dropped = drop_connect(jax.random.key(1), params, 0.5, paths="h./kernel")
      >>> y = layer.apply(dropped, x, deterministic=True)

      Drop weights of everything but the biases:

      >>> dropped = drop_connect(jax.random.key(1), params, 0.5, paths=lambda p: "bias" not in p)

    Reference: Wan et al., Regularization of Neural Networks using DropConnect, 2013,
    http://proceedings.mlr.press/v28/wan13.html; Merity et al., Regularizing and Optimizing LSTM
    Language Models, 2018, https://arxiv.org/abs/1708.02182
    """
    rate = check_rate(rate)
    is_selected = _predicate(paths)
    steps_and_leaves, tree = jax.tree_util.tree_flatten_with_path(weights)
    siblings = Counter(steps[:-1] for steps, _ in steps_and_leaves)
    named = [(_name(steps, siblings[steps[:-1]] == 1), leaf) for steps, leaf in steps_and_leaves]
    selected = [bool(is_selected(path)) for path, _ in named]
    if not any(selected):
        got = f"weights at {listed([path for path, _ in named])}" if named else "no weights"
        raise ValueError(
            f"paths must select at least one of the weights: got paths={shown(paths)}, and {got}"
        )
    to_drop = list(itertools.compress(named, selected))
    for path, leaf in to_drop:
        _check_weight(path, leaf)
    repeated = [path for path, count in Counter(path for path, _ in to_drop).items() if count > 1]
    if repeated:
        raise ValueError(
            "weights must have different paths, since their masks depend on the paths: "
            f"got several weights at {listed(repeated)}"
        )
    dropped_paths = [path for path, _ in to_drop]
    keys = {} if needs_no_key(rate) else named_keys(key, dropped_paths, "paths of weights")
    dropped = []
    for (path, leaf), is_dropped in zip(named, selected, strict=True):
        if is_dropped:
            leaf = drop(keys.get(path), leaf, rate, Recipe(leaf.shape))
        dropped.append(leaf)
    result: Weights = jax.tree.unflatten(tree, dropped)
    return result


def _name(steps: tuple[Any, ...], is_alone: bool) -> str:
    # The value in a box has no siblings. A user's own field named "value" may have some.
    if is_alone and steps and steps[-1] == _BOX:
        steps = steps[:-1]
    return jax.tree_util.keystr(steps, simple=True, separator="/")


def _predicate(paths: Paths) -> Callable[[str], object]:
    if paths is None:
        return lambda path: True
    if isinstance(paths, re.Pattern) and isinstance(paths.pattern, bytes):
        raise TypeError(f"paths must be a regular expression of text: got {shown(paths.pattern)}")
    if isinstance(paths, str | re.Pattern):
        try:
            return re.compile(paths).search
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"paths must be a regular expression: got paths={shown(paths)}, {error}"
            ) from None
    return check_callable(paths, "paths", "a regular expression or a function of a path")


def _check_weight(path: str, leaf: Any) -> None:
    try:
        check_input(leaf, f"weights at {shown(path)}" if path else "weights")
    except TypeError as error:
        raise TypeError(f"{error}; leave it out with paths") from None
