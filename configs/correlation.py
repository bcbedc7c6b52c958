"""Why spatial dropout at all: how much of a dropped value do its neighbors give back?

    python -m experiments.correlation --config=configs/correlation.py

This takes 4 min 7 s on 2 CPU cores, with all compiles. The papers predict:

- Activations of convolutional networks are strongly correlated in space, so dropout of single
  values does not make them independent, and only lowers the effective learning rate (Tompson et
  al., 2015). Thus single values are mostly given back, and whole channels are not. The gradient
  then has little noise, as it is nearly a scaled copy of the one without dropout.
- Information still flows through such networks despite dropout, and blocks remove it (Ghiasi et
  al., 2018). Thus blocks are between single values and channels.
- The papers do not speak of sequences. Word vectors and hours of weather are measured to see.

Expected are these means over 5 seeds, at a rate of 0.5: the share that neighbors give back, and the
effective drop rates, which say what is really removed:

              given back   Dropout   SpatialDropout
    photo           0.976     0.004            0.175
    block 1         0.815     0.043            0.115
    word vectors    0.006     0.178            0.178

Single values are mostly given back, and so are whole channels, but less. That whole channels give a
gradient more noise shows in the last block only, and a little for word vectors. Blocks are between
single values and channels in block 1, but not at a rate of 0.9 deeper.

`:smoke` (32 s) only tests that all parts work. `:gpu` has larger networks, 50,000
images and ten seeds. It has not been run.
"""

from ml_collections import ConfigDict

from configs import image_classification, pos_tagging, weather_forecast
from experiments import checks

VARIANTS = ("cpu", "gpu", "smoke")


def get_config(variant: str = "cpu") -> ConfigDict:
    """Returns the setting of a variant: "cpu" (the default), "gpu" or "smoke"."""
    checks.variant("correlation", variant, VARIANTS)
    config = ConfigDict()
    config.name = "correlation"
    config.sources = ("photo", "images", "weather", "words")
    config.shown = "block 1"  # the place whose map the figure shows
    config.seeds = 5

    config.rate = 0.5  # of the first and the last table
    config.rates = (0.1, 0.5, 0.9)  # of the second table
    config.block_size = 3
    config.maps = 2000  # maps of a place to fit predictors on, and as many to try them on
    config.places = 10_000  # positions of these maps that are sampled
    config.channels = 4  # channels of a place that are predicted
    config.masks = 64
    config.dropped = 128  # dropped values that are predicted
    config.photo_size = 28
    config.photo_step = 8
    config.gradient_batch = 32
    config.gradient_masks = 32

    config.images = image_classification.get_config()
    config.images.regularizers = ("none",)
    config.images.conditions = ConfigDict()
    config.images.widths = (16, 32, 64)  # maps of 28 x 28, 14 x 14 and 7 x 7
    config.images.blocks = 1
    config.images.patch = 1
    config.images.epochs = 6
    config.images.data.train_images = 2000
    config.images.data.test_images = 2000
    config.words = pos_tagging.get_config()
    config.weather = weather_forecast.get_config()

    if variant == "gpu":
        config.name = "correlation-gpu"
        config.seeds = 10
        config.maps = 4000
        config.places = 50_000
        config.channels = 16
        config.dropped = 2048
        config.gradient_batch = 256
        config.gradient_masks = 512
        config.images.widths = (32, 64, 128)
        config.images.blocks = 2
        config.images.epochs = 60
        config.images.data.train_images = 50_000
        config.images.data.test_images = 0
    elif variant == "smoke":
        config.name = "correlation-smoke"
        config.seeds = 2
        config.maps = 100
        config.places = 500
        config.channels = 2
        config.dropped = 8
        config.gradient_batch = 4
        config.gradient_masks = 4
        config.images.widths = (8,)
        config.images.optimizer.warmup_steps = 1
        config.images.epochs = 1
        config.images.data.source = "digits"
        config.images.data.train_images = 200
        config.images.data.validation_images = 100
        config.images.data.test_images = 100
        config.words = pos_tagging.get_config("smoke")
        config.words.epochs = 1
        config.weather = weather_forecast.get_config("smoke")
    for trained in (config.images, config.words, config.weather):
        trained.mesh.runs = 1
    return config
