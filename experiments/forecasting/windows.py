"""Turns hours into examples: fills gaps, splits by time, and cuts windows inside each part."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from ..errors import InputError
from ..task import Data, Split
from . import weather

TARGET = ("EWR", "temp")
PARTS = ("train", "validation", "test")


class Windows(NamedTuple):
    """The examples of a part.

    Attributes:
      inputs: [window, hour, channel], the measurements.
      last: [window], the temperature at the last hour, which is the forecast of persistence.
      truth: [window], the temperature `ahead` hours later.
      hours: [window], the hour of the truth, counted from the first hour of the data.
    """

    inputs: np.ndarray
    last: np.ndarray
    truth: np.ndarray
    hours: np.ndarray


def load(data: ConfigDict) -> Data:
    """Loads the weather of a config's `data` part, and turns it into examples."""
    measured = weather.read(Path(data.path) if data.path else weather.weather_path())
    filled = measured.ffill(limit=data.max_fill) if data.max_fill else measured
    spans = divide(len(measured), data.train_share, data.validation_share)
    strides = {"train": data.train_stride, "validation": 1, "test": 1}
    parts, offered = {}, 0
    for name, span in spans.items():
        parts[name], possible = cut(measured, filled, span, data, strides[name])
        offered += possible
        if not len(parts[name].truth):
            raise InputError(
                f"the {name} part has {len(span)} hours and no complete window of {data.hours} "
                f"hours with a measured temperature {data.ahead} hours later"
            )
    scale = scale_of(filled.to_numpy()[spans["train"]])
    splits = {name: normalize(part, scale) for name, part in parts.items()}
    record = {
        **count(measured, filled, spans),
        "windows": {name: len(part.truth) for name, part in parts.items()},
        "windows_left_out": offered - sum(len(part.truth) for part in parts.values()),
        "deviation_of_change": float(np.std(splits["train"].targets)),
    }
    record["shown"] = show(parts["test"], measured.index, data.shown_hours)
    baseline = rmse(parts["test"].last, parts["test"].truth)
    text = describe(record, data)
    train, validation, test = splits.values()
    return Data(train, validation, test, baseline, text, record)


def divide(hours: int, train_share: float, validation_share: float) -> dict[str, range]:
    """Splits hours by time: the first for training, the last for the test."""
    first, second = (round(hours * s) for s in (train_share, train_share + validation_share))
    spans = range(first), range(first, second), range(second, hours)
    return dict(zip(PARTS, spans, strict=True))


def cut(
    measured: pd.DataFrame, filled: pd.DataFrame, span: range, data: ConfigDict, stride: int
) -> tuple[Windows, int]:
    """Cuts the windows whose hours and target are inside a span, and counts all such windows.

    A window is left out if a value is missing even after filling, or if the target was not
    measured. A filled target would only repeat an earlier value.
    """
    values, truth = filled.to_numpy(), measured[TARGET].to_numpy()
    starts = np.arange(span.start, span.stop - data.hours - data.ahead + 1, stride)
    rows = starts[:, None] + np.arange(data.hours)
    last, target = rows[:, -1], rows[:, -1] + data.ahead
    whole = np.isfinite(values).all(1)[rows].all(1) & np.isfinite(truth[target])
    rows, last, target = rows[whole], last[whole], target[whole]
    temperature = filled[TARGET].to_numpy()
    return Windows(values[rows], temperature[last], truth[target], target), len(starts)


def scale_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of every channel. A deviation of 0 becomes 1."""
    deviation = np.nanstd(values, 0)
    return np.nanmean(values, 0), np.where(deviation > 0, deviation, 1)


def normalize(part: Windows, scale: tuple[np.ndarray, np.ndarray]) -> Split:
    """Normalizes inputs, and makes the change of the temperature the target."""
    mean, deviation = scale
    inputs = ((part.inputs - mean) / deviation).astype(np.float32)
    change = (part.truth - part.last).astype(np.float32)
    return Split((inputs,), change, np.ones(len(change), bool))


def show(part: Windows, hours: pd.DatetimeIndex, length: int) -> dict[str, list[Any]]:
    """Returns the truth of the first windows of a part, for a figure."""
    first = slice(min(length, len(part.truth)))
    return {
        "hours": [str(hours[hour]) for hour in part.hours[first]],
        "last": part.last[first].tolist(),
        "truth": part.truth[first].tolist(),
    }


def rmse(forecast: np.ndarray, truth: np.ndarray) -> float:
    """Returns the root mean squared error."""
    return float(np.sqrt(np.mean((forecast - truth) ** 2)))


def count(measured: pd.DataFrame, filled: pd.DataFrame, spans: dict[str, range]) -> dict[str, Any]:
    """Counts hours, missing hours and filled values, and gives the first and last hour of parts."""
    return {
        "hours": len(measured),
        "missing_hours": {
            airport: int(measured[airport].isna().all(axis=1).sum()) for airport in weather.AIRPORTS
        },
        "share_filled": float((measured.isna() & filled.notna()).to_numpy().mean()),
        "parts": {
            name: [str(measured.index[hour]) for hour in (span.start, span.stop - 1)]
            for name, span in spans.items()
        },
    }


def describe(record: dict[str, Any], data: ConfigDict) -> str:
    """Describes the data in sentences."""
    parts = [
        f"{name} {record['windows'][name]} windows ({first[:10]} to {last[:10]})"
        for name, (first, last) in record["parts"].items()
    ]
    missing = ", ".join(f"{count} at {name}" for name, count in record["missing_hours"].items())
    return (
        f"{record['hours']} hours of {len(weather.CHANNELS)} channels at each of "
        f"{', '.join(weather.AIRPORTS)}, divided by time: {'; '.join(parts)}. From "
        f"{data.hours} hours to the temperature at {TARGET[0]} {data.ahead} hours after the "
        f"last; no window crosses a border, and training windows start {data.train_stride} h "
        f"apart. Missing hours: {missing}; {100 * record['share_filled']:.1f} % of all values "
        f"are filled from at most {data.max_fill} hours before (wind above "
        f"{weather.HIGHEST_WIND:g} mph counts as missing). Windows left out, since values were "
        f"still missing or the target was not measured: {record['windows_left_out']}."
    )
