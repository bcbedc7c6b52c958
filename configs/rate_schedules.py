"""Dropout early, late, growing or constant, in a single epoch and in many: which schedule is best?

    python -m experiments.main --config=configs/rate_schedules.py
    python -m experiments.main --config=configs/rate_schedules.py:images

A transformer learns the words of the King James Bible, with dropout at all its places. It sees
150,000 words once, or 15,000 words twelve times. `:images` trains a residual network with
SpatialDropout2D on 20,000 images of Fashion-MNIST once, or on 1,000 images twenty times. "early"
falls to 0 in the first half of training, "late" is 0 there, and "growing" grows from 0 to the rate
there. The papers predict:

- In a single epoch, a language model is best without dropout, and early dropout does not help
  either (Liu et al., Drop Dropout on Single-Epoch Language Model Pretraining, 2025).
- Early dropout helps models that underfit, and late dropout those that overfit (Liu et al., Dropout
  Reduces Underfitting, 2023). So "late" should help in many epochs, and "early" in a single one.

The results took 6 min each on 2 CPU cores, beside other programs. Expected are these differences
to "none", as mean and 95 % interval over 5 seeds. For words, it is the perplexity:

                many epochs      single epoch
    constant    -0.36 +- 0.78    +4.44 +- 0.40
    early       -0.05 +- 0.66    +1.41 +- 0.24
    late        -2.13 +- 1.11    +1.76 +- 0.22
    growing     -1.67 +- 0.95    +3.10 +- 0.25

For `:images`, it is the accuracy in points:

    constant    +0.21 +- 0.53    -1.12 +- 0.76
    early       +0.02 +- 0.95    -0.18 +- 0.76
    late        +0.54 +- 0.75    -0.60 +- 0.22
    growing     +0.31 +- 0.97    -0.75 +- 0.51

For words, a single epoch is best without dropout, and "late" and "growing" help in many, as
predicted. That "early" helps in a single epoch does not show. For images, many epochs show no
difference.

`:smoke` (24 s) only tests that all parts work. `:gpu` reads all 750,000 words once, or a
tenth of them twenty times, with a larger network. It is ready to run, but has not been run.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import image_classification, word_language_model
from experiments import checks

VARIANTS = ("words", "images", "smoke", "gpu")


def get_config(variant: str = "words") -> ConfigDict:
    """Returns the setting of a variant: "words" (the default), "images", "smoke" or "gpu"."""
    checks.variant("rate_schedules", variant, VARIANTS)
    config = images() if variant == "images" else words()
    config.name = "rate_schedules" if variant == "words" else f"rate_schedules-{variant}"
    config.regularizers = ("none", "constant", "early", "late", "growing")
    config.rates = (0.1, 0.3)
    if variant == "smoke":
        config.regularizers = ("none", "early")
        config.rates = (0.1,)
        config.seeds = 2
        config.features = 16
        config.checkpoint_every = 2
        config.optimizer.warmup_steps = 0
        config.data.update({"validation_words": 300, "test_words": 300, "vocabulary": 100})
        add_trainings(config, "train_words", 2_000, 1_000, 2)
    if variant == "gpu":
        config.layers = 6
        config.features = 384
        config.heads = 6
        config.batch_size = 16
        config.optimizer.learning_rate = 1e-3
        config.data.update({"validation_words": 0, "test_words": 0, "vocabulary": 8_000})
        config.data.update({"window": 128, "context": 64})
        add_trainings(config, "train_words", 750_000, 75_000, 20)
    return config


def words() -> ConfigDict:
    """Returns the setting for words."""
    config = word_language_model.get_config("transformer")
    config.task = "scheduled_words"
    config.regularizer = "all"  # the places of the transformer that drop
    config.optimizer.update({"schedule": "cosine", "warmup_steps": 20})
    add_trainings(config, "train_words", 150_000, 15_000, 12)
    # Slower, since a network that overfits at once leaves nothing for the second half to improve.
    config.conditions["many epochs"].optimizer = ConfigDict({"learning_rate": 1e-3})
    return config


def images() -> ConfigDict:
    """Returns the setting for images.

    The norm is group norm. A batch norm would average the statistics of values with dropout, and
    use them in tests, where nothing is dropped.
    """
    config = image_classification.get_config()
    config.task = "scheduled_images"
    config.regularizer = "SpatialDropout2D"
    config.own_rates = ConfigDict()
    config.norm = "group"
    add_trainings(config, "train_images", 20_000, 1_000, 20)
    return config


def add_trainings(config: ConfigDict, field: str, once: int, often: int, epochs: int) -> None:
    """Adds the conditions: trainings on so many examples, once or in many epochs.

    There is no early stopping. The schedules act in the first half of the steps.
    """
    per_step = config.batch_size * (config.data.window if field == "train_words" else 1)

    def training(size: int, epochs: int) -> dict[str, Any]:
        steps = max(1, epochs * (size // per_step) // 2)
        length = {"epochs": epochs, "patience": epochs}
        return {**length, "data": {field: size}, "rate_schedule": {"steps": steps}}

    config.conditions = ConfigDict()
    config.conditions["single epoch"] = training(once, 1)
    config.conditions["many epochs"] = training(often, epochs)
