"""Sensors: what does it buy to drop a sensor in training, if one fails later?

    python -m experiments.main --config=configs/sensors.py

A watch has an accelerometer and a gyroscope. Ten people did seven exercises with it, and a network
with a branch for each sensor names the exercise of a person that it has never seen. Each seed tests
another person, so intervals are over ten people. "ModalityDropout" drops all measurements of a
sensor in training. The others drop after each convolution: single values, whole features, whole
time steps, or blocks of time steps of a feature.

Predictions, written before the run:

- Neverova et al. (2014, https://arxiv.org/abs/1501.00102): dropping modalities makes a network
  robust to a missing one, and costs nothing while all are there.
- Tompson et al. (2015, https://arxiv.org/abs/1411.4280): features of neighboring positions are
  correlated, so dropping whole features beats dropping single values. It helped most on a small
  training set, and ten people are few.
- Ghiasi et al. (2018, https://arxiv.org/abs/1810.12890): without blocks, a network looks at more of
  its input. So it should suffer less if a part is lost: here, a second of the measurements.

The results took 27 min on 2 CPU cores, beside other programs. Expected is the accuracy in %, as
mean and 95 % interval over 10 people, and the difference to "none" in points, when nothing failed.
The last columns are the means with the accelerometer failed, the gyroscope failed, and a second
lost:

    linear classifier         84.0
    none                      79.4 +- 6.0                   23.9  52.4  74.0
    Dropout           at 0.1  79.3 +- 6.2   -0.14 +- 3.46   25.9  50.4  75.0
    SpatialDropout1D  at 0.1  78.7 +- 8.1   -0.71 +- 3.58   30.9  52.6  74.3
    TimestepDropout   at 0.2  76.9 +- 7.4   -2.57 +- 4.17   34.0  54.6  76.3
    DropBlock         at 0.2  78.3 +- 7.2   -1.14 +- 4.00   29.6  49.0  73.4
    ModalityDropout   at 0.2  81.1 +- 7.3   +1.71 +- 4.30   54.4  68.0  76.6

The first prediction holds: "ModalityDropout" helps all ten people when a sensor failed, and costs
nothing that they can show. The other two do not show. No network has a higher mean
than the linear classifier.

`:smoke` (24 s) only tests that all parts work. `:gpu` trains a wider network on more windows and at
more rates. It has not been run.
"""

from ml_collections import ConfigDict

from experiments import checks, devices, optimizer, rate_schedule

VARIANTS = ("sensors", "smoke", "gpu")


def get_config(variant: str = "sensors") -> ConfigDict:
    """Returns the setting of a variant: "sensors" (the default), "smoke" or "gpu"."""
    checks.variant("sensors", variant, VARIANTS)
    config = ConfigDict()
    config.name = "sensors"
    config.task = "sensors"
    config.regularizers = (
        *("none", "Dropout", "SpatialDropout1D", "TimestepDropout", "DropBlock"),
        "ModalityDropout",
    )
    config.rates = (0.1, 0.2, 0.4)
    config.seeds = 10  # each tests another person

    config.features = 32
    config.batch_size = 32
    config.epochs = 30
    config.patience = 8
    config.steps_per_call = 0  # steps in one program; 0 is an epoch
    config.checkpoint_every = 1000  # steps from one checkpoint to the next; 0 for none

    config.optimizer = optimizer.defaults(learning_rate=1e-3)
    config.rate_schedule = rate_schedule.defaults()
    config.mesh = devices.defaults()  # how runs are spread over devices
    config.dtype = "float32"  # or "bfloat16", to compute in; parameters stay float32

    config.data = ConfigDict()
    config.data.path = ""  # an .npy file; "" is the watch data set of seglearn
    config.data.length = 200  # time steps of a window: 4 s
    config.data.windows = 5  # of each recording
    config.data.validation_people = 2

    if variant == "smoke":
        config.name = "sensors-smoke"
        config.rates = (0.1, 0.4)
        config.seeds = 2
        config.features = 8
        config.epochs = 3
        config.checkpoint_every = 6
        config.data.windows = 2
    elif variant == "gpu":
        config.name = "sensors-gpu"
        config.rates = (0.05, 0.1, 0.2, 0.4, 0.6)
        config.features = 128
        config.epochs = 100
        config.data.windows = 32
    return config
