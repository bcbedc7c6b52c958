"""Image classification: which dropout helps a residual network, on how many images, and where?

    python -m experiments.main --config=configs/image_classification.py

It trains a small pre-activation ResNet on 1,000 and 4,000 images of Fashion-MNIST with batch norm,
and on 1,000 with group norm. The images are in the Debian package dataset-fashion-mnist.

The papers predict, each for networks and data that are far larger:

- Dropout before a batch norm hurts, since the norm's running averages do not fit the variance
  without dropout: 77.42 -> 68.55 % on CIFAR-100 (Li et al., 2018). So we expect less harm before
  a group norm, which has none.
- SpatialDropout2D beats Dropout where there is little data (Tompson et al., 2015).
- DropBlock beats both, and best at a rate that grows in training (Ghiasi et al., 2018).
- DropPath lowers the error, and saves about 25 % of the time (Huang et al., 2016).
- Cutout lowers the error (DeVries & Taylor, 2017).

The results took 24 min on 2 CPU cores, beside other programs. Expected are these differences of
accuracy to "none" in points, as mean and 95 % interval over 5 seeds:

                                  1,000 images     group norm       4,000 images
    Dropout                       +1.18 +- 0.70    +0.46 +- 1.07    +0.43 +- 0.30
    SpatialDropout2D              +0.93 +- 0.61    +0.21 +- 0.53    +0.05 +- 0.83
    Dropout before norm           +0.65 +- 0.28    +0.34 +- 0.62    -
    SpatialDropout2D before norm  +0.31 +- 0.07    +0.03 +- 0.89    -
    DropBlock                     +1.06 +- 0.48    -                +0.31 +- 0.30
    DropBlock growing             +1.18 +- 0.28    -                +0.08 +- 0.65
    DropPath row                  +0.86 +- 1.01    -                +0.04 +- 0.74
    DropPath batch                +0.10 +- 0.45    -                +0.06 +- 0.75
    DropPath subset               +0.18 +- 1.68    -                +0.11 +- 0.62
    cutout                        +1.62 +- 0.47    -                +0.23 +- 0.45

Dropout at a rate of 0.5 is worse before a norm than after it, and more so with batch norm, as
predicted. DropBlock and cutout help on 1,000 images. That channels or blocks beat single values, or
that DropPath helps, does not show.

`:smoke` (24 s) only tests that all parts work, on scikit-learn's digits. `:gpu` is a wide
ResNet on 1,000 to 55,000 images, for a GPU. It has not been run.
"""

from ml_collections import ConfigDict

from experiments import checks, devices, optimizer, rate_schedule

AFTER = ("Dropout", "SpatialDropout2D")
BEFORE = ("Dropout before norm", "SpatialDropout2D before norm")
PATHS = ("DropPath row", "DropPath batch", "DropPath subset")
OTHERS = ("DropBlock", "DropBlock growing", *PATHS, "cutout")
VARIANTS = ("cpu", "gpu", "smoke")


def get_config(variant: str = "cpu") -> ConfigDict:
    """Returns the setting of a variant: "cpu" (the default), "gpu" or "smoke"."""
    checks.variant("image_classification", variant, VARIANTS)
    config = ConfigDict()
    config.name = "image_classification"
    config.task = "image_classification"
    config.regularizers = ("none", *AFTER, *BEFORE, *OTHERS)
    config.rates = (0.1, 0.3)
    config.own_rates = ConfigDict()  # of regularizers for which config.rates do not fit
    config.own_rates["Dropout"] = (0.1, 0.3, 0.5)
    config.own_rates["Dropout before norm"] = (0.1, 0.3, 0.5)
    config.own_rates["DropPath subset"] = (0.2,)  # one rate, which is a part of the program
    config.own_rates["cutout"] = (0.5, 1.0)  # the share of images that lose a square
    config.seeds = 5

    config.norm = "batch"  # or "group"
    config.widths = (16, 32)  # channels of each stage
    config.blocks = 2  # residual blocks of each stage
    config.patch = 4  # the stride of the first convolution
    config.block_size = 3  # of DropBlock, in positions
    config.batch_size = 50
    config.epochs = 20
    config.patience = 20  # no early stopping
    config.steps_per_call = 0  # steps in one program; 0 is an epoch
    config.checkpoint_every = 1000  # steps from one checkpoint to the next; 0 for none

    config.optimizer = optimizer.defaults(
        name="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        warmup_steps=20,
        schedule="cosine",
    )
    config.rate_schedule = rate_schedule.defaults()  # but "growing" always grows
    config.mesh = devices.defaults()  # how runs are spread over devices
    config.dtype = "float32"  # or "bfloat16", to compute in; parameters stay float32

    config.data = ConfigDict()
    config.data.source = "fashion-mnist"  # or "mnist" or "digits"
    config.data.path = ""  # a folder with the files of Fashion-MNIST; "" is the Debian package's
    config.data.split_seed = 0
    config.data.train_images = 1000  # 0 takes all that are not for validation
    config.data.validation_images = 1000
    config.data.test_images = 0  # 0 takes all

    group_norm = {"norm": "group", "regularizers": ("none", *AFTER, *BEFORE)}
    config.conditions = ConfigDict()
    config.conditions["1,000 images"] = {}
    config.conditions["4,000 images"] = {
        "regularizers": ("none", *AFTER, *OTHERS),
        "epochs": 10,
        "data": {"train_images": 4000},
    }
    config.conditions["1,000 images, group norm"] = group_norm

    if variant == "smoke":
        config.name = "image_classification-smoke"
        config.regularizers = ("none", "DropPath subset")
        config.rates = (0.1,)
        config.own_rates["Dropout"] = (0.1,)
        config.seeds = 2
        config.widths = (8, 16)
        config.blocks = 1
        config.patch = 2
        config.epochs = 2
        config.checkpoint_every = 2
        config.optimizer.warmup_steps = 1
        config.data.source = "digits"
        config.data.train_images = 100
        config.data.validation_images = 50
        config.data.test_images = 100
        config.conditions = ConfigDict()
        config.conditions["100 images"] = {}
        config.conditions["100 images, group norm"] = {
            **group_norm,
            "regularizers": ("none", "Dropout"),
        }
    elif variant == "gpu":
        config.name = "image_classification-gpu"
        config.rates = (0.05, 0.1, 0.2, 0.3)
        config.widths = (160, 320, 640)
        config.blocks = 4
        config.patch = 1
        config.block_size = 7
        config.batch_size = 128
        config.epochs = 100
        config.patience = 100
        config.checkpoint_every = 2000
        config.dtype = "bfloat16"
        config.data.validation_images = 5000
        config.conditions = ConfigDict()
        for images in (1000, 4000, 16_000, 55_000):
            config.conditions[f"{images:,} images"] = {"data": {"train_images": images}}
        config.conditions["1,000 images, group norm"] = group_norm
    return config
