"""A decoder of 0.9 billion parameters as MaxText builds it, to be compiled for a slice of TPUs.

    python -m experiments.tpu_plan --config=configs/decoder.py --topology=v5p:4x8x8

This plans a training and needs no text. `docs/guides/tpu_pod.md` has the results. `:smoke` is a
small version that also compiles quickly on a CPU.
"""

from ml_collections import ConfigDict

from experiments import checks, devices, optimizer

VARIANTS = ("maxtext", "smoke")


def get_config(variant: str = "maxtext") -> ConfigDict:
    """Returns the setting of a variant: "maxtext" (the default) or "smoke"."""
    checks.variant("decoder", variant, VARIANTS)
    config = ConfigDict()
    config.name = "decoder"
    config.task = "decoder"
    config.regularizers = ("none", "residual", "attention", "embedding", "all")
    config.flax = ("none", "all")  # also compiled with Flax's own attention and layer
    config.fast_key = ("all",)  # also compiled with masks from fast keys
    config.rate = 0.1

    config.batch_size = 256
    config.length = 4096  # tokens in a sequence
    config.vocabulary = 32768
    config.layers = 16
    config.features = 2048
    config.heads = 16

    config.optimizer = optimizer.defaults(name="adamw", learning_rate=1e-3, weight_decay=1e-4)

    config.mesh = devices.defaults(data=-1, fsdp=16)  # -1: all chips that the other axes leave

    if variant == "smoke":
        config.name = "decoder-smoke"
        config.batch_size = 16
        config.length = 32
        config.vocabulary = 64
        config.layers = 2
        config.features = 16
        config.heads = 2
    return config
