"""Dropout of whole inputs of a sample: of its conditions, or of its modalities."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .._apply import by_mask
from .._checks import (
    check_array,
    check_batch_dims,
    check_mask,
    check_rate,
    check_switch,
    is_box,
    is_static,
    listed,
    needs_no_key,
    plural,
    shown,
    unboxed,
)
from .._random.keys import named_keys
from .._random.mask import sample_sharded
from .._random.several import sample_all, sample_some
from .._random.sharding import explicit_sharding
from .._typing import Array, Key, Rate, Shape
from .null import broadcast_null, check_null, zero_like

Tree = TypeVar("Tree")

Rates: TypeAlias = Rate | Mapping[str, Rate]
"""One rate for all inputs, or a rate for each name."""

Masks: TypeAlias = Array | Mapping[str, Array]
"""One mask of [*batch] for all inputs, or a mask for each name."""


def condition_dropout(
    key: Key,
    condition: Tree,
    rate: Rates,
    *,
    null: Any,
    joint: bool = True,
    mask: Masks | None = None,
    batch_dims: int = 1,
) -> Tree:
    """Replaces the conditions of whole samples by a null condition, for classifier-free guidance.

        y[b] = condition[b] if m[b] else null,   m[batch] ~ Bernoulli(1 - rate)

    So one model learns to generate with and without a condition. Values are not scaled. The
    gradient of a kept sample goes to its condition, and that of a dropped one to null. With joint,
    all conditions of a sample share the draw `sample_mask(key, rate, batch_shape)`. Without it, the
    condition is a dict, and each entry has a draw of its own, with the key
    `jax.random.fold_in(key, zlib.crc32(name.encode()))`: it does not depend on the other entries.

    Args:
      key: as in `dropout`. It may also be None if a mask is given.
      condition: an array of [*batch, ...], such as class labels or embedded text, or a pytree of
        several, of any dtypes.
      rate: as in `dropout`. If joint is False, it may be a dict with a rate for each name of the
        condition. To drop all conditions of a sample at a given rate, use `rate_of_each`.
      null: the condition of a dropped sample: an id, a number, or an array that broadcasts to the
        shape of a sample's condition, such as a learned parameter, which then has a gradient. One
        for all arrays of the condition, or a pytree of them with the structure of the condition or
        of its upper levels. It is cast to the condition's dtype.
      joint: whether all conditions of a sample are dropped together.
      mask: forces the choice, at any rate: bool of the batch shape, True where a sample keeps its
        condition. If joint is False, it may be a dict of masks by name. When sampling, call the
        model with a mask of True and with one of False.
      batch_dims: the number of leading batch axes, which all arrays of the condition share; 0 for
        a single example.

    Returns:
      The condition, with the null condition in dropped samples. Shapes, dtypes and shardings stay.

    Raises:
      ValueError: if arrays of the condition differ in their batch axes, null or mask does not fit,
        a dict of rates has other names than the condition, or two names that need a draw have the
        same crc32; else as in `dropout`.
      TypeError: if null has another kind of dtype than the condition, or joint is False and the
        condition is not a dict; else as in `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import condition_dropout
      >>> labels = jnp.array([3, 1, 4, 1, 5])
      >>> condition_dropout(jax.random.key(0), labels, 0.5, null=10)
      Array([10, 10,  4,  1, 10], dtype=int32)

    Reference: Ho & Salimans, Classifier-Free Diffusion Guidance, 2022,
    https://arxiv.org/abs/2207.12598
    """
    inputs = condition_inputs(condition, joint, batch_dims)
    nulls = inputs.check_null(null)
    rates, masks = inputs.check_rates(rate), inputs.check_masks(mask)
    dropped: Tree = inputs.replaced(inputs.sample(key, rates) if masks is None else masks, nulls)
    return dropped


def modality_dropout(
    key: Key,
    inputs: Mapping[str, Tree],
    rate: Rates,
    *,
    keep_one: bool = True,
    mask: Masks | None = None,
    batch_dims: int = 1,
) -> tuple[dict[str, Tree], dict[str, jax.Array]]:
    """Drops whole modalities of a sample, such as its sound or its image, but never all of them.

        y[i][b] = inputs[i][b] if m[i][b] else 0,   m[i][batch] ~ Bernoulli(1 - rate[i])

    So a model learns to work with the modalities that are there. With keep_one, the m[i] of a
    sample have exactly the law of independent draws, given that not all of them drop. This makes
    each modality drop less often than at its rate r[i]:

        P(i drops) = (r[i] - R) / (1 - R),   R = r[1] r[2] ... r[n]

    No draw is repeated for this: modalities are drawn one after the other, in sorted order of their
    names. While none is kept, the next one is kept with the probability
    (1 - r[i]) / (1 - r[i] r[i+1] ... r[n]), otherwise with 1 - r[i]. The draw of a modality is
    `jax.random.bernoulli` with the key `jax.random.fold_in(key, zlib.crc32(name.encode()))`.

    Values are not scaled. What a missing modality means depends on how the model fuses them: a mean
    over the modalities that are present, for example, must not see larger values. The second result
    tells which they are.

    Args:
      key: as in `condition_dropout`.
      inputs: a dict of modalities by name: arrays of [*batch, ...], of any dtype, or pytrees of
        them.
      rate: as in `dropout`, or a dict with a rate for each name. With keep_one, not all may be the
        number 1 when masks are drawn. (If all are arrays of 1, one modality is kept, and each is
        as likely. This is the limit for equal rates.)
      keep_one: whether each sample keeps at least one modality. If False, draws are independent.
      mask: forces the choice, at any rate: a dict of bool masks of the batch shape by name, True
        where a modality is present, or one mask for all. It may say that all are missing.
      batch_dims: as in `condition_dropout`.

    Returns:
      inputs: a dict of the same names, with 0 in what is dropped.
      presence: {name: bool of the batch shape}, True where a modality is kept.

    Raises:
      ValueError: if arrays differ in their batch axes, a dict of rates or masks has other names,
        or a mask does not fit; when masks are drawn, if all rates are the number 1 with keep_one,
        or two names have the same crc32; else as in `dropout`.
      TypeError: if inputs is not a dict by name, or holds anything but arrays; else as in
        `dropout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop import modality_dropout
      >>> inputs = {"audio": jnp.ones((4, 8)), "image": jnp.ones((4, 6, 6, 3))}
      >>> dropped, presence = modality_dropout(jax.random.key(0), inputs, 0.5)
      >>> presence["audio"] | presence["image"]
      Array([ True,  True,  True,  True], dtype=bool)

    Reference: Neverova et al., ModDrop: Adaptive Multi-modal Gesture Recognition, 2014,
    https://arxiv.org/abs/1501.00102
    """
    modalities = modality_inputs(inputs, keep_one, batch_dims)
    rates, masks = modalities.check_rates(rate), modalities.check_masks(mask)
    if masks is None:
        modalities.check_some_kept(rates)
        masks = modalities.sample(key, rates)
    return modalities.replaced(masks, modalities.zeros()), modalities.by_name(masks)


def check_rates(rate: Any, name: str) -> Rates:
    """Checks a rate, or a dict of rates by name, before the inputs are known."""
    if not isinstance(rate, Mapping):
        return check_rate(rate, name)
    for key, value in rate.items():
        check_rate(value, f"{name}[{shown(key)}]")
    return rate


class Inputs(NamedTuple):
    """The inputs of a batch, with one draw for all of them or a draw for each name.

    Attributes:
      argument: the name of the argument that holds them, for messages.
      tree: a pytree, or a dict of pytrees by name.
      names: sorted; None if all inputs share one draw. Rates and masks are tuples in this order.
      batch_shape: the batch axes that all arrays have.
      keep_one: whether each sample keeps the input of at least one name.
    """

    argument: str
    tree: Any
    names: tuple[str, ...] | None
    batch_shape: Shape
    keep_one: bool = False

    @property
    def noise_shape(self) -> Shape:
        """The number of draws, for a summary."""
        return self.batch_shape if self.names is None else (len(self.names), *self.batch_shape)

    @property
    def arrays(self) -> list[Any]:
        """All arrays, in the order of JAX's trees."""
        return _leaves(self.tree)

    @property
    def kept_bytes(self) -> int:
        """The bytes of the masks that the backward pass keeps: those of arrays with a gradient."""
        parts = map(_leaves, self.parts(self.tree))
        have_gradient = [any(jnp.issubdtype(x.dtype, jnp.inexact) for x in part) for part in parts]
        return sum(have_gradient) * math.prod(self.batch_shape)

    def parts(self, tree: Any) -> tuple[Any, ...]:
        """Returns what shares a draw: the whole tree, or the entry of each name."""
        return (tree,) if self.names is None else tuple(tree[name] for name in self.names)

    def _joined(self, parts: Sequence[Any]) -> Any:
        """Returns what `parts` took apart, in the order of the user's dict."""
        if self.names is None:
            return parts[0]
        return {name: parts[self.names.index(name)] for name in self.tree}

    def by_name(self, masks: Sequence[Array] | None) -> Any:
        """Returns masks as a user gets them: one array, or a dict; all True if none are drawn."""
        if masks is None:
            masks = [jnp.ones(self.batch_shape, bool)] * len(self.parts(self.tree))
        return self._joined([*map(jnp.asarray, masks)])

    def check_rates(
        self, rate: Any, check: Callable[[Any, str], Rate] = check_rate
    ) -> tuple[Rate, ...]:
        """Returns the rate of each draw, as check(rate, name) returns it."""
        return tuple(check(*pair) for pair in self._each(rate, "rate"))

    def check_some_kept(self, rates: Sequence[Rate]) -> None:
        """Checks that keep_one can hold, before masks are drawn."""
        if self.keep_one and all(is_static(rate, 1.0) for rate in rates):
            raise ValueError(
                "rate must be below 1 for at least one modality if keep_one=True: "
                f"got a rate of 1 for {listed(self.names or ())}"
            )

    def check_masks(self, mask: Any) -> tuple[Array, ...] | None:
        """Returns the mask of each draw, or None if no mask is given."""
        if mask is None:
            return None
        return tuple(self._check_mask(*pair) for pair in self._each(mask, "mask"))

    def _check_mask(self, mask: Any, name: str) -> Array:
        checked = check_mask(mask, name)
        if checked.shape != self.batch_shape:
            raise ValueError(
                f"{name} must have the batch shape of {self.argument}, {self.batch_shape}: "
                f"got {name}.shape={checked.shape}"
            )
        return checked

    def _each(self, value: Any, what: str) -> list[tuple[Any, str]]:
        """Returns the value for each draw, and its name for messages."""
        if self.names is None and isinstance(value, Mapping):
            raise TypeError(
                f"{what} must be one for all of {self.argument} unless joint=False: "
                f"got entries for {listed([*value])}"
            )
        if self.names is None:
            return [(value, what)]
        if not isinstance(value, Mapping):
            return [(value, what)] * len(self.names)
        if {*value} != {*self.names}:
            raise ValueError(
                f"{what} must have an entry for each of {listed(self.names)}: "
                f"got entries for {listed([*value])}"
            )
        return [(value[name], f"{what}[{shown(name)}]") for name in self.names]

    def needs_key(self, rates: Sequence[Rate]) -> bool:
        """Whether anything is drawn."""
        return not all(map(needs_no_key, rates))

    def sample(self, key: Key, rates: Sequence[Rate]) -> tuple[jax.Array, ...] | None:
        """Draws the mask of each draw; None if nothing is dropped."""
        if all(is_static(rate, 0.0) for rate in rates):
            return None
        if self.names is None:
            return (sample_sharded(key, rates[0], self.batch_shape, self._batch_sharding()),)
        keys: list[Key] = [None] * len(rates)
        if self.needs_key(rates):
            keys = [*named_keys(key, self.names, f"names of {self.argument}").values()]
        draw = sample_some if self.keep_one and self.needs_key(rates) else sample_all
        return tuple(draw(keys, rates, self.batch_shape, self._batch_sharding()))

    def mean_rate(self, rates: Sequence[Rate]) -> Rate:
        """Returns the mean of the rates, for a summary."""
        if all(isinstance(rate, float) for rate in rates):
            return math.fsum(rates) / len(rates)
        return jnp.stack([jnp.clip(jnp.asarray(r, np.float32), 0, 1) for r in rates]).mean()

    def _batch_sharding(self) -> NamedSharding | None:
        """Returns the explicit sharding of the batch axes of the first array, if it has one."""
        sharding = explicit_sharding(self.arrays[0])
        if sharding is None:
            return None
        return NamedSharding(sharding.mesh, P(*sharding.spec[: len(self.batch_shape)]))

    def check_null(self, null: Any) -> tuple[list[jax.Array], ...]:
        """Returns the null value of each array of each part, with as many axes as the array."""
        if null is None:
            raise ValueError("null must be given, the condition of a dropped sample: got null=None")
        if self.names is not None and isinstance(null, Mapping):
            null = dict(null)
        broadcast = broadcast_null(null, self.tree, self.argument)
        parts = zip(self.parts(self.tree), self.parts(broadcast), strict=True)
        sample_axis = len(self.batch_shape)
        return tuple(
            [
                check_null(value, leaf, sample_axis)
                for leaf, value in zip(_leaves(tree), _leaves(values), strict=True)
            ]
            for tree, values in parts
        )

    def zeros(self) -> tuple[list[jax.Array], ...]:
        """Returns 0 for each array of each part, like `check_null`."""
        return tuple(
            [zero_like(leaf, self.argument) for leaf in _leaves(part)]
            for part in self.parts(self.tree)
        )

    def replaced(self, masks: Sequence[Array] | None, nulls: Sequence[Sequence[jax.Array]]) -> Any:
        """Returns the inputs with null values in dropped samples."""
        parts = []
        for i, tree in enumerate(self.parts(self.tree)):
            leaves, structure = jax.tree.flatten(tree, is_leaf=is_box)
            leaves = [jnp.asarray(unboxed(leaf)) for leaf in leaves]
            if masks is not None:
                pairs = zip(leaves, nulls[i], strict=True)
                leaves = [by_mask(_kept_or_null, masks[i], x, null) for x, null in pairs]
            parts.append(jax.tree.unflatten(structure, leaves))
        return self._joined(parts)


def condition_inputs(condition: Any, joint: bool, batch_dims: int) -> Inputs:
    """Checks the conditions of a batch."""
    if check_switch(joint, "joint"):
        return _inputs("condition", condition, None, batch_dims)
    names = _check_names("condition", condition, "a dict of conditions by name if joint=False")
    return _inputs("condition", condition, names, batch_dims)


def modality_inputs(inputs: Any, keep_one: bool, batch_dims: int) -> Inputs:
    """Checks the modalities of a batch."""
    keep_one = check_switch(keep_one, "keep_one")
    names = _check_names("inputs", inputs, "a dict of modalities by name")
    return _inputs("inputs", inputs, names, batch_dims)._replace(keep_one=keep_one)


def _check_names(argument: str, inputs: Any, what: str) -> tuple[str, ...]:
    if not isinstance(inputs, Mapping):
        raise TypeError(f"{argument} must be {what}: got {shown(inputs)}")
    for name in inputs:
        if not isinstance(name, str):
            raise TypeError(f"{argument} must have names that are strings: got {shown(name)}")
    return tuple(sorted(inputs))


def _inputs(argument: str, tree: Any, names: tuple[str, ...] | None, batch_dims: int) -> Inputs:
    batch_dims = check_batch_dims(batch_dims)
    tree = tree if names is None else dict(tree)
    batch_shape: Shape | None = None
    parts = {"": tree} if names is None else {f"[{shown(n)}]": tree[n] for n in names}
    for suffix, part in parts.items():
        leaves = _leaves(part)
        if not leaves:
            raise ValueError(f"{argument}{suffix} must have at least one array: got {shown(part)}")
        for leaf in leaves:
            shape = _check_leaf(leaf, f"{argument}{suffix}").shape
            if len(shape) < batch_dims:
                raise ValueError(
                    f"{argument}{suffix} must have {plural(batch_dims, 'batch axis')} in every "
                    f"array: got an array of shape {shape} with batch_dims={batch_dims}"
                )
            batch_shape = shape[:batch_dims] if batch_shape is None else batch_shape
            if shape[:batch_dims] != batch_shape:
                raise ValueError(
                    f"{argument} must have the same batch axes in every array, {batch_shape} as in "
                    f"the first: got an array of shape {shape} with batch_dims={batch_dims}"
                )
    if batch_shape is None:
        raise ValueError(f"{argument} must have at least one array: got {shown(tree)}")
    return Inputs(argument, tree, names, batch_shape)


def _leaves(tree: Any) -> list[Any]:
    """Returns the arrays of a tree, out of their boxes."""
    return [unboxed(leaf) for leaf in jax.tree.leaves(tree, is_leaf=is_box)]


def _check_leaf(leaf: Any, name: str) -> Array:
    checked = check_array(leaf, name)
    if not any(jnp.issubdtype(checked.dtype, kind) for kind in (jnp.number, jnp.bool_)):
        raise TypeError(f"{name} must hold numbers: got dtype {checked.dtype}")
    return checked


def _kept_or_null(mask: jax.Array, x: jax.Array, null: jax.Array) -> jax.Array:
    """Returns x where the mask of [*batch] is True, else null, in x's dtype."""
    mask = jnp.expand_dims(mask, range(mask.ndim, x.ndim))
    wide = null.dtype if null.dtype.itemsize > x.dtype.itemsize else x.dtype
    return jnp.where(mask, x.astype(wide), null.astype(wide)).astype(x.dtype)
