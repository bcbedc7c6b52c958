"""The share of dropped values that a linear predictor gives back.

For a value that a mask drops, the predictor sees what the mask leaves visible around it: values of
the same channel within `NEAR` positions, and of the other channels within `CLOSE`. It is the least
squares fit for these inputs on some maps, and the share is its R^2 on other maps: 1 minus the
variance of its error over the variance of the value, both summed over many dropped values.

This needs the covariances of the values only, which are measured once for each channel.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import linalg

from ..errors import InputError

NEAR = 2
CLOSE = 1
RIDGE = 1e-4
"""Added to the diagonal of a correlation matrix, because some inputs are nearly equal."""
SMALLEST = 1e-6
"""A channel with less than this share of the largest variance is left out."""


class Maps(NamedTuple):
    """Feature maps, [map, height, width, channel]. A sequence is a map of width 1.

    Attributes:
      fitted: the maps that predictors are fitted on.
      others: the maps that they are tried on.
    """

    fitted: np.ndarray
    others: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The height, the width and the number of channels."""
        return self.fitted.shape[1:]


class Moments(NamedTuple):
    """The covariances of a value and of all values that may predict it, in both kinds of maps.

    `center` is the index of the value itself.
    """

    fitted: np.ndarray
    others: np.ndarray
    center: int

    @property
    def variance(self) -> float:
        """The variance of the value in the other maps."""
        return float(self.others[self.center, self.center])

    def of_own_channel(self) -> "Moments":
        """Leaves out the other channels, whose values are behind those of the own channel."""
        own = 2 * self.center + 1
        return self._replace(fitted=self.fitted[:own, :own], others=self.others[:own, :own])


def check(maps: Maps) -> None:
    """Raises InputError for maps that are smaller than what a predictor sees of them."""
    height, width = maps.shape[:2]
    least = 2 * NEAR + 1
    if height < least or 1 < width < least:
        raise InputError(
            f"maps must have at least {least} rows and {least} columns, or a column alone: got "
            f"{height} and {width}"
        )


def adjacent_correlation(maps: np.ndarray) -> float:
    """Returns the correlation of adjacent values, over all channels and both directions."""
    centered = maps - maps.mean((0, 1, 2))
    product = variance = 0.0
    for axis in (1, 2):
        last = maps.shape[axis] - 1
        if last:
            first, second = (
                centered.take(range(last), axis),
                centered.take(range(1, last + 1), axis),
            )
            product += float((first * second).mean())
            variance += float((first**2 + second**2).mean() / 2)
    return product / variance


def measure(maps: Maps, places: int, channels: int, rng: np.random.Generator) -> dict[int, Moments]:
    """Measures the moments of some random channels, at random places of the maps."""
    fitted, others = (_sample(part, places, rng) for part in maps)
    variance = np.minimum(*(part.var((0, 1, 2)) for part in maps))
    alive = np.flatnonzero(variance > SMALLEST * variance.max())
    chosen = rng.choice(alive, min(channels, len(alive)), replace=False)
    return {int(channel): _moments(fitted, others, channel) for channel in chosen}


def dropped(moments: Mapping[int, Moments], masks: np.ndarray) -> np.ndarray:
    """Returns where masks drop a measured channel: [value, (mask, row, column, channel)].

    Masks are [mask, height, width, channel], and True where a value is visible. Values whose
    surroundings are not inside the map are left out.
    """
    rows, columns = _inside(masks.shape[1:])
    channels = list(moments)
    found = np.argwhere(~masks[:, rows.start : rows.stop, columns.start : columns.stop, channels])
    found[:, 3] = np.take(channels, found[:, 3])
    return found + np.array([0, rows.start, columns.start, 0])


def share(
    moments: Mapping[int, Moments], masks: np.ndarray, count: int, rng: np.random.Generator
) -> float:
    """Returns the share that is given back of `count` random values that the masks drop."""
    chosen = rng.permutation(dropped(moments, masks))[:count]
    errors = variances = 0.0
    for window, channel in zip(_around(masks, chosen[:, :3]), chosen[:, 3], strict=True):
        found = moments[channel]
        visible = _inputs(window[None], channel)[0, : len(found.fitted)]
        errors += _error(found, visible)
        variances += found.variance
    return 1 - errors / variances


def law(correlation: float) -> dict[int, Moments]:
    """Returns the moments of a field whose correlation falls exponentially with the distance."""
    positions = np.arange(2 * NEAR + 1)
    along = correlation ** np.abs(positions - positions[:, None])
    covariance = np.kron(along, along)
    return {0: Moments(covariance, covariance, len(covariance) // 2)}


def fill(values: np.ndarray, mask: np.ndarray, channel: int, found: Moments) -> np.ndarray:
    """Returns a channel of a map, with predictions where the mask drops its values.

    Values are differences to the mean of their channel.
    """
    margin = [(far, far) for far in _reach(values.shape)]
    values, mask = (np.pad(array, [*margin, (0, 0)]) for array in (values, mask))
    filled = values[..., channel].copy()
    rows, columns = _inside(values.shape)
    for row in rows:
        for column in columns:
            if not mask[row, column, channel]:
                place = np.array([[0, row, column]])
                visible = _inputs(_around(mask[None], place), channel)[0]
                inputs = _inputs(_around(values[None], place), channel)[0]
                filled[row, column] = _weights(found, visible) @ inputs[visible]
    return filled[rows.start : rows.stop, columns.start : columns.stop]


def _reach(shape: Sequence[int]) -> tuple[int, int]:
    """Returns how far a predictor sees along both axes of a map."""
    rows, columns = (NEAR if size > 1 else 0 for size in shape[:2])
    return rows, columns


def _inside(shape: Sequence[int]) -> tuple[range, range]:
    """Returns the rows and columns of a map whose surroundings are inside the map."""
    far = _reach(shape)
    return range(far[0], shape[0] - far[0]), range(far[1], shape[1] - far[1])


def _sample(maps: np.ndarray, places: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts the surroundings of random places."""
    ranges = (range(len(maps)), *_inside(maps.shape[1:]))
    return _around(maps, np.stack([rng.choice(each, places) for each in ranges], axis=-1))


def _around(maps: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Cuts the surroundings of places [place, (map, row, column)]."""
    down, right = (np.arange(-far, far + 1) for far in _reach(maps.shape[1:]))
    which, row, column = (places[:, axis, None, None] for axis in range(3))
    return maps[which, row + down[:, None], column + right]


def _inputs(windows: np.ndarray, channel: int) -> np.ndarray:
    """Returns a channel's own values in surroundings, then the close ones of the others."""
    rows, columns = (
        slice(max(0, size // 2 - CLOSE), size // 2 + CLOSE + 1) for size in windows.shape[1:3]
    )
    others = np.delete(windows[:, rows, columns], channel, axis=-1)
    parts = windows[..., channel], others
    return np.concatenate([part.reshape(len(windows), -1) for part in parts], axis=1)


def _moments(fitted: np.ndarray, others: np.ndarray, channel: int) -> Moments:
    """Measures the moments of a channel from surroundings in both kinds of maps."""
    first, second = (
        np.cov(_inputs(part, channel).astype(np.float64), rowvar=False) for part in (fitted, others)
    )
    return Moments(first, second, center=fitted.shape[1] * fitted.shape[2] // 2)


def _weights(found: Moments, visible: np.ndarray) -> np.ndarray:
    """Fits the predictor from the visible values."""
    covariance = found.fitted[np.ix_(visible, visible)]
    deviation = np.sqrt(covariance.diagonal())
    deviation = np.where(deviation > 0, deviation, 1)
    correlation = covariance / np.outer(deviation, deviation) + RIDGE * np.eye(len(deviation))
    right = found.fitted[visible, found.center] / deviation
    return linalg.solve(correlation, right, assume_a="pos") / deviation if len(right) else right


def _error(found: Moments, visible: np.ndarray) -> float:
    """Returns the variance of the predictor's error in the other maps."""
    weights = _weights(found, visible)
    cross = found.others[visible, found.center]
    squares = weights @ found.others[np.ix_(visible, visible)] @ weights
    return float(found.variance - 2 * weights @ cross + squares)
