import numpy as np
import pandas as pd
import pytest

from experiments.errors import InputError
from experiments.forecasting import weather, windows


@pytest.fixture
def table(weather_path):
    return weather.read(weather_path)


def cut(table, config, name="train", stride=1, fill=0):
    spans = windows.divide(len(table), 0.7, 0.15)
    filled = table.ffill(limit=fill) if fill else table
    return windows.cut(table, filled, spans[name], config.data, stride)[0]


def test_the_parts_are_all_hours_in_their_order():
    spans = windows.divide(1000, 0.7, 0.15)
    assert [(s.start, s.stop) for s in spans.values()] == [(0, 700), (700, 850), (850, 1000)]
    assert list(spans) == ["train", "validation", "test"]


def test_no_window_reaches_into_another_part(table, forecast_config):
    last = 0
    for name in windows.PARTS:
        part = cut(table, forecast_config, name)
        first_hours = part.hours - forecast_config.data.ahead - forecast_config.data.hours + 1
        assert (first_hours >= last).all()
        # A span of n hours has n - 12 - 6 + 1 windows.
        span = windows.divide(len(table), 0.7, 0.15)[name]
        assert len(part.truth) == len(span) - 17
        assert part.hours.max() == span.stop - 1
        last = span.stop


def test_a_window_holds_its_hours_its_last_temperature_and_its_target(table, forecast_config):
    part = cut(table, forecast_config, "validation", stride=5)
    values, temperature = table.to_numpy(), table["EWR", "temp"].to_numpy()
    start = 280  # 0.7 of 400
    for index in (0, 1, 7):
        first = start + 5 * index
        np.testing.assert_array_equal(part.inputs[index], values[first : first + 12])
        assert part.last[index] == temperature[first + 11]
        assert part.truth[index] == temperature[first + 17]
        assert part.hours[index] == first + 17


def test_a_target_that_was_not_measured_is_left_out_though_inputs_are_filled(
    table, forecast_config
):
    table.iloc[100, 0] = np.nan
    part = cut(table, forecast_config, fill=3)
    assert 100 not in part.hours
    assert {99, 101} < set(part.hours)
    assert np.isfinite(part.inputs).all()
    seen = part.inputs[part.hours == 106][0]  # the last hour of this window is filled
    assert seen[-1, 0] == part.last[part.hours == 106][0] == table.iloc[99, 0]


def test_a_gap_too_long_to_fill_takes_its_windows_with_it(table, forecast_config):
    table.iloc[100:104, 3] = np.nan  # three of them are filled
    part = cut(table, forecast_config, fill=3)
    assert np.isfinite(part.inputs).all()
    rows = part.hours[:, None] - 6 - np.arange(12)
    assert not (rows == 103).any()
    assert (rows == 102).any()


def test_the_scale_is_that_of_the_training_part_alone(forecast_config, rows, tmp_path):
    def load(rows):
        rows.to_csv(tmp_path / "weather.csv", index=False)
        forecast_config.data.path = str(tmp_path / "weather.csv")
        return windows.load(forecast_config.data)

    plain = load(rows)
    late = rows["time_hour"] >= rows["time_hour"][280]  # validation and test
    rows.loc[late, list(weather.CHANNELS)] += 30
    shifted = load(rows)
    np.testing.assert_array_equal(shifted.train.inputs[0], plain.train.inputs[0])
    [before], [after] = plain.test.inputs, shifted.test.inputs
    # 30 more is 30 / (s.d. in training) more in every channel, so the data is not centered again.
    assert (after - before > 2).all()
    deviation = rows[~late & (rows["origin"] == "LGA")]["visib"].std(ddof=0)
    np.testing.assert_allclose((after - before)[..., -1], 30 / deviation, rtol=1e-4)


def test_a_channel_that_stands_still_is_not_divided_by_zero():
    mean, deviation = windows.scale_of(np.array([[1.0, 2.0], [1.0, 4.0]]))
    assert mean.tolist() == [1, 3]
    assert deviation.tolist() == [1, 1]


def test_persistence_by_hand(forecast_config, weather_path):
    data = windows.load(forecast_config.data)
    temperature = weather.read(weather_path)["EWR", "temp"].to_numpy()[340:]
    errors = temperature[17:] - temperature[11:-6]
    assert data.baseline == pytest.approx(np.sqrt(np.mean(errors**2)))
    # The baseline of persistence forecasts no change.
    assert data.baseline == pytest.approx(np.sqrt(np.mean(data.test.targets**2)))
    assert data.test.counted.all()


def test_the_record_has_what_the_figure_shows(forecast_config):
    forecast_config.data.shown_hours = 5
    data = windows.load(forecast_config.data)
    shown = data.record["shown"]
    change = np.subtract(shown["truth"], shown["last"])
    np.testing.assert_allclose(data.test.targets[:5], change, rtol=1e-5)
    first = pd.Timestamp("2030-01-01", tz="UTC") + pd.Timedelta(hours=340 + 17)
    assert shown["hours"][0] == str(first)


def test_the_description_counts_what_is_missing_filled_and_left_out(
    forecast_config, rows, tmp_path
):
    gone = rows["time_hour"].isin(rows["time_hour"][100:103]) & (rows["origin"] == "EWR")
    rows[~gone].to_csv(tmp_path / "weather.csv", index=False)
    forecast_config.data.update({"path": str(tmp_path / "weather.csv"), "train_stride": 1})
    text = windows.load(forecast_config.data).description
    assert "Missing hours: 3 at EWR, 0 at JFK, 0 at LGA" in text
    assert "0.2 % of all values are filled from at most 12 hours before" in text  # 21 of 8400
    assert text.endswith("not measured: 3.")  # the targets
    assert "train 260 windows (2030-01-01 to 2030-01-12)" in text


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_part_without_a_window_says_so(forecast_config, name):
    shares = {"train": (0.01, 0.5), "validation": (0.8, 0.01), "test": (0.8, 0.19)}[name]
    forecast_config.data.train_share, forecast_config.data.validation_share = shares
    message = f"^the {name} part has 4 hours and no complete window of 12 hours with a measured"
    with pytest.raises(InputError, match=message):
        windows.load(forecast_config.data)


def test_no_hour_may_be_filled(forecast_config, rows, tmp_path):
    rows.loc[50, "temp"] = np.nan
    rows.to_csv(tmp_path / "weather.csv", index=False)
    forecast_config.data.update({"path": str(tmp_path / "weather.csv"), "max_fill": 0})
    assert windows.load(forecast_config.data).record["share_filled"] == 0
