"""One table of all regularizers.

To add a regularizer, add a line to `CASES`. test_programs.py compares the programs of each case,
without running them: the program of its module to that of its function, and the program of the
function to that of the tested function that the kind names as `like`. test_contracts.py runs the
other cases.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

import flax_spatialdrop as fs
import flax_spatialdrop.linen
import flax_spatialdrop.nnx

FACES = ("function", "linen", "nnx")
TOOLS = {  # functions that are not regularizers
    "apply_mask",
    "explain",
    "fast_key",
    "fold_in_axes",
    "linear_rates",
    "mask_block",
    "monte_carlo",
    "patch_mask",
    "plot_mask",
    "rate_of_each",
    "restore_patches",
    "sample_mask",
    "scale_rates",
    "span_mask",
}


def module_name(function_name):
    """Returns the name of the module, such as SpatialDropout1D for spatial_dropout_1d."""
    name = re.sub(r"_(\d)d$", r"_\1D", function_name)
    return "".join(part[0].upper() + part[1:] for part in name.split("_"))


class Kind(NamedTuple):
    """The masks and the outputs to expect of a regularizer, computed independently of its own code.

    Every regularizer is affine in each value of x: y = slope * x + offset.
    """

    # mask(key, rate, noise_shape, **options) returns the mask to expect.
    mask: Callable[..., Any] = lambda key, rate, shape, **_: fs.sample_mask(key, rate, shape)
    # affine(mask, rate, **options) returns (slope, offset) in float64; both broadcast to x.
    affine: Callable[..., tuple[Any, Any]] = lambda mask, rate, **_: (
        np.asarray(mask) * np.float64(np.float32(1) / np.float32(1 - rate) if rate < 1 else 0),
        0.0,
    )
    # residuals(shape, noise_shape) returns dtype and shape of each residual of the derivative.
    residuals: Callable[..., list[Any]] = lambda shape, noise_shape: (
        [(jnp.uint32, (2,))] if shape == noise_shape else [(jnp.bool_, noise_shape)]
    )
    is_bernoulli: bool = True  # whether entries are independent, and dropped at the rate
    needs_rate_below_1: bool = False
    draws_at_1: bool = False  # whether it needs a key at a rate of 1
    is_solved: bool = False  # whether it solves an equation for the rate
    # like(key, x, rate, noise_shape=...) is a function with the same program, if there is one.
    like: Callable[..., jax.Array] | None = None


BERNOULLI = Kind(like=fs.dropout)
UNSCALED = Kind(affine=lambda mask, rate, **_: (np.asarray(mask, np.float64), 0.0))


def block_mask(key, rate, noise_shape, *, block_size, batch_dims=1, data_format=None, **_):
    """Drops one block after another, at seeds that `jax.random.bernoulli` draws."""
    first = batch_dims + (data_format == "channels_first")
    space = range(first, first + len(block_size))
    sizes = dict(zip(space, block_size, strict=True))
    seeds = [n - sizes.get(axis, 1) + 1 for axis, n in enumerate(noise_shape)]
    if rate == 1:
        return np.zeros(noise_shape, bool)
    probability = np.float32(no_seed([noise_shape[a] for a in space], block_size, rate))
    mask = np.ones(noise_shape, bool)
    for seed in np.argwhere(~np.asarray(jax.random.bernoulli(key, probability, seeds))):
        mask[tuple(slice(i, i + sizes.get(axis, 1)) for axis, i in enumerate(seed))] = False
    return mask


def covers(space, block_size):
    """Counts the blocks that cover each position, among all that fit in the map."""
    counts = np.zeros(space, int)
    for corner in np.ndindex(*(n - k + 1 for n, k in zip(space, block_size, strict=True))):
        counts[tuple(slice(i, i + k) for i, k in zip(corner, block_size, strict=True))] += 1
    return counts


def no_seed(space, block_size, rate):
    """Solves for the probability of no seed with which 1 - rate of all positions are kept."""
    counts = covers(space, block_size)
    return optimize.brentq(lambda u: np.mean(u**counts) - (1 - rate), 0, 1, xtol=1e-15)


def by_position(mask, rate, *, block_size, batch_dims=1, data_format=None, **_):
    """Divides each kept value by the probability that it is kept."""
    if rate == 1:
        return np.zeros(mask.shape), 0.0
    first = batch_dims + (data_format == "channels_first")
    space = mask.shape[first : first + len(block_size)]
    kept = np.float64(no_seed(space, block_size, rate)) ** covers(space, block_size)
    after = mask.ndim - first - len(block_size)
    return mask / kept.reshape((1,) * first + space + (1,) * after), 0.0


BLOCKS = Kind(
    mask=block_mask,
    affine=by_position,
    residuals=lambda shape, noise_shape: [(jnp.bool_, noise_shape)],
    is_bernoulli=False,
    is_solved=True,
)


def alpha_s_affine(mask, rate, **_):
    """The equation of the paper. At a rate of 1, its limit, 0."""
    if rate == 1:
        return np.zeros(mask.shape), np.zeros(mask.shape)
    limit = -1.7580993408473766
    a = ((1 - rate) + limit**2 * (1 - rate) * rate) ** -0.5
    b = -a * rate * limit
    return a * np.asarray(mask), a * limit * ~np.asarray(mask) + b


ALPHA = Kind(affine=alpha_s_affine, like=fs.alpha_dropout)


def noise(key, rate, shape, **_):
    """The noise of Gaussian dropout, computed by NumPy, which rounds each operation to float32."""
    deviation = np.sqrt(np.float32(rate) / np.float32(1 - rate))
    return 1 + deviation * np.asarray(jax.random.normal(key, shape, jnp.float32))


GAUSSIAN = Kind(
    mask=noise,
    affine=lambda noise, rate, **_: (noise.astype(np.float64), 0 * noise),
    residuals=lambda shape, noise_shape: (
        [(jnp.uint32, (2,))] if shape == noise_shape else [(jnp.float32, noise_shape)]
    ),
    is_bernoulli=False,
    needs_rate_below_1=True,
    like=fs.gaussian_dropout,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A regularizer, its options and kind, the shape of an input, and the noise shape to expect."""

    function: Callable[..., jax.Array]
    shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    kind: Kind = BERNOULLI

    @property
    def mechanism(self) -> Any:
        """Cases with the same mechanism differ only in shapes, so the contracts run one of them."""
        if self.kind.like is None:
            return self.id
        return self.kind, self.noise_shape == self.shape, 0 in self.shape, self.shape == ()

    @property
    def id(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.function.__name__}{self.shape}{options}".replace(" ", "")

    def mask(self, key: jax.Array, rate: Any) -> Any:
        """Returns the mask to expect, in noise shape."""
        return self.kind.mask(key, rate, self.noise_shape, **self.options)

    def slope_and_offset(self, key: jax.Array, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the slope and the offset to expect, in the shape of x."""
        slope, offset = self.kind.affine(self.mask(key, rate), rate, **self.options)
        return np.broadcast_to(slope, self.shape), np.broadcast_to(offset, self.shape)

    def residuals(self) -> list[Any]:
        """Returns dtype and shape of each residual to expect; JAX keeps no empty arrays."""
        return [] if 0 in self.shape else self.kind.residuals(self.shape, self.noise_shape)

    def module(self, face: str) -> Callable[..., Any]:
        """Returns the class of the module, in Linen or NNX."""
        return getattr(getattr(fs, face), module_name(self.function.__name__))

    def face(self, face: str = "function") -> Callable[..., jax.Array]:
        """Returns f(key, x, rate), which calls the function, or the module of "linen" or "nnx"."""
        if face == "function":
            return lambda key, x, rate: self.function(key, x, rate, **self.options)
        # The rate is passed at the call, since it may be traced.
        layer = self.module(face)(rate=0.1, **self.options)
        if face == "linen":
            return lambda key, x, rate: layer.apply({}, x, False, key, rate=rate)
        return lambda key, x, rate: layer(x, rngs=key, rate=rate)


def cutout_mask(key, rate, noise_shape, *, block_size, num_blocks, batch_dims=1, **_):
    """Hides one rectangle after another, in a mask of [*batch, height, width, channel]."""
    for_presence, for_place = jax.random.split(key)
    batch = noise_shape[:batch_dims]
    is_hidden = ~np.asarray(fs.sample_mask(for_presence, rate, (num_blocks, *batch)))
    high, wide = (n - k + 1 for n, k in zip(noise_shape[batch_dims:-1], block_size, strict=True))
    places = np.asarray(jax.random.randint(for_place, is_hidden.shape, 0, high * wide, np.int32))
    mask = np.ones(noise_shape, bool)
    for index in np.argwhere(is_hidden):
        i, j = divmod(places[tuple(index)], wide)
        mask[(*index[1:], slice(i, i + block_size[0]), slice(j, j + block_size[1]))] = False
    return mask


CUTOUT = Kind(
    mask=cutout_mask,
    affine=lambda mask, rate, *, fill=0.0, **_: (mask * 1.0, ~mask * np.float64(fill)),
    residuals=lambda shape, noise_shape: [(jnp.bool_, noise_shape)],
    is_bernoulli=False,
    draws_at_1=True,
)
FIRST = {"data_format": "channels_first"}

CASES = [
    Case(fs.dropout, (3, 4, 5), (3, 4, 5)),
    Case(fs.dropout, (3, 0), (3, 0)),
    Case(fs.dropout, (3, 2, 5), (3, 1, 5), {"noise_shape": (None, 1, 5)}),
    Case(fs.dropout, (), ()),
    Case(fs.dropout, (3, 4, 5), (3, 1, 5), {"noise_shape": (None, 1, 5)}),
    Case(fs.dropout, (3, 4, 5), (3, 1, 1), {"broadcast_dims": (1, -1)}),
    Case(fs.embedding_dropout, (5, 4), (5, 1)),
    Case(fs.spatial_dropout, (2, 3, 2, 2, 2, 5), (2, 1, 1, 1, 1, 5)),
    Case(fs.spatial_dropout, (4, 5), (1, 5), {"batch_dims": 0}),
    Case(fs.spatial_dropout_1d, (3, 4, 5), (3, 1, 5)),
    Case(fs.spatial_dropout_1d, (3, 5, 4), (3, 5, 1), FIRST),
    Case(fs.spatial_dropout_2d, (3, 2, 4, 5), (3, 1, 1, 5)),
    Case(fs.spatial_dropout_2d, (3, 5, 2, 4), (3, 5, 1, 1), FIRST),
    Case(fs.spatial_dropout_2d, (2, 4, 5), (1, 1, 5), {"batch_dims": 0}),
    Case(fs.spatial_dropout_3d, (3, 2, 2, 4, 5), (3, 1, 1, 1, 5)),
    Case(fs.timestep_dropout, (3, 4, 5), (3, 4, 1)),
    Case(fs.timestep_dropout, (3, 5, 4), (3, 1, 4), FIRST),
    Case(
        fs.cutout,
        (3, 5, 6, 2),
        (3, 5, 6, 1),
        {"block_size": (2, 3), "num_blocks": 2, "fill": (0.5, -2)},
        CUTOUT,
    ),
    Case(fs.drop_block, (2, 7, 2), (2, 7, 2), {"block_size": (3,)}, BLOCKS),
    Case(
        fs.drop_block,
        (2, 3, 5, 6),
        (2, 1, 5, 6),
        {"block_size": (2, 4), "per_channel": False} | FIRST,
        BLOCKS,
    ),
    Case(fs.drop_block, (2, 3, 4, 5), (2, 3, 4, 5), {"block_size": 1}),
    Case(fs.drop_block, (3, 4, 5), (1, 1, 5), {"block_size": 4, "batch_dims": 0}),
    Case(fs.feature_dropout, (3, 4, 5), (1, 1, 5)),
    Case(fs.feature_dropout, (3, 5, 4), (1, 5, 1), FIRST),
    Case(fs.sample_dropout, (3, 4, 5), (3, 1, 1)),
    Case(fs.sample_dropout, (2, 3, 4, 5), (2, 3, 1, 1), {"batch_dims": 2}),
    Case(fs.sample_dropout, (3, 5), (3, 1), FIRST),
    Case(fs.head_dropout, (3, 4, 5, 2), (3, 1, 5, 1)),
    Case(fs.head_dropout, (5, 4, 2), (5, 1, 1), {"head_axis": -3, "batch_dims": 0}),
    Case(fs.alpha_dropout, (3, 4, 5), (3, 4, 5), kind=ALPHA),
    Case(fs.alpha_dropout, (3, 4, 5), (3, 1, 5), {"noise_shape": (None, 1, None)}, ALPHA),
    Case(fs.feature_alpha_dropout, (3, 5, 2, 4), (3, 5, 1, 1), FIRST, ALPHA),
    Case(fs.gaussian_dropout, (3, 4, 5), (3, 4, 5), kind=GAUSSIAN),
    Case(fs.gaussian_dropout, (3, 4, 5), (3, 1, 5), {"broadcast_dims": (1,)}, GAUSSIAN),
    Case(fs.drop_path, (3, 4, 5), (1, 4, 1), {"batch_axis": -2}),
    Case(fs.drop_path, (3, 5), (1, 1), {"mode": "batch"}),
    Case(fs.drop_path, (3, 5), (3, 1), {"scale": False}, UNSCALED),
]

FIRST_OF_EACH = list({case.function: case for case in reversed(CASES)}.values())
REPRESENTATIVES = list({case.mechanism: case for case in reversed(CASES)}.values())
"""The first case of each mechanism, for the contracts. test_programs.py covers the other cases."""
