"""ResNet-50 with DropBlock and stochastic depth, to be compiled for a slice of TPUs.

    python -m experiments.tpu_plan --config=configs/resnet50.py --topology=v5e:16x16

This plans a training and needs no images. `docs/guides/tpu_pod.md` has the results. `:smoke` is a
small version that also compiles quickly on a CPU.
"""

from ml_collections import ConfigDict

from experiments import checks, devices, optimizer

VARIANTS = ("imagenet", "smoke")


def get_config(variant: str = "imagenet") -> ConfigDict:
    """Returns the setting of a variant: "imagenet" (the default) or "smoke"."""
    checks.variant("resnet50", variant, VARIANTS)
    config = ConfigDict()
    config.name = "resnet50"
    config.task = "resnet50"
    config.regularizers = ("none", "DropBlock", "stochastic depth", "both")
    config.flax = ("both",)  # also compiled with Flax's own layer
    config.fast_key = ("both",)  # also compiled with masks from fast keys
    config.rate = 0.1

    config.batch_size = 4096
    config.image_size = 224
    config.classes = 1000
    config.blocks = (3, 4, 6, 3)
    config.features = 64

    config.optimizer = optimizer.defaults(name="sgd", learning_rate=0.1, momentum=0.9)

    config.mesh = devices.defaults(data=-1)  # -1: all chips that the other axes leave

    if variant == "smoke":
        config.name = "resnet50-smoke"
        config.batch_size = 16
        config.image_size = 32
        config.classes = 10
        config.blocks = (1, 1, 1, 1)
        config.features = 8
    return config
