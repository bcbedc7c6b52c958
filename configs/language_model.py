"""A language model of characters: does dropout of attention weights help, and which form?

    python -m experiments.main --config=configs/language_model.py

This takes 22 min on 2 CPU cores, with all compiles. It trains a decoder-only transformer on 500
sentences of UD Portuguese Porttinari, 54 kB, with dropout of attention weights only. The expected
results are perplexity per character, as mean and 95 % interval over 5 seeds of one split:

    5-gram           6.41
    none             8.12 +- 0.10
    weights at 0.3   7.65 +- 0.08    -0.47 +- 0.07 over none
    heads   at 0.3   7.57 +- 0.02    -0.54 +- 0.11
    keys    at 0.3   7.63 +- 0.04    -0.48 +- 0.09
    spans   at 0.3   7.66 +- 0.08    -0.46 +- 0.11

All forms help. The differences between them may be chance. The 5-gram is better than all networks.
At a rate of .5, nearly all runs reached the cap of 24 epochs.

`:smoke` (a minute or two) only tests that all parts work.
"""

from ml_collections import ConfigDict

from experiments import checks, devices, optimizer, rate_schedule

VARIANTS = ("characters", "smoke")


def get_config(variant: str = "characters") -> ConfigDict:
    """Returns the setting of a variant: "characters" (the default) or "smoke"."""
    checks.variant("language_model", variant, VARIANTS)
    config = ConfigDict()
    config.name = "language_model"
    config.task = "language"
    config.regularizers = ("none", "weights", "heads", "keys", "spans")
    config.rates = (0.1, 0.3, 0.5)
    config.seeds = 5

    config.attention = "blockwise"  # or "fused"; "flax" works with "none" only
    config.layers = 2
    config.features = 64
    config.heads = 4
    config.batch_size = 8
    config.epochs = 24
    config.patience = 3
    config.steps_per_call = 0  # steps in one program; 0 is an epoch
    config.checkpoint_every = 1000  # steps from one checkpoint to the next; 0 for none

    config.optimizer = optimizer.defaults(learning_rate=5e-3)
    config.rate_schedule = rate_schedule.defaults()
    config.mesh = devices.defaults()  # how runs are spread over devices
    config.dtype = "float32"  # or "bfloat16", to compute in; parameters stay float32

    config.data = ConfigDict()
    config.data.path = ""  # a CoNLL-U file; "" is the Porttinari treebank
    config.data.split_seed = 0
    config.data.train_sentences = 500  # 0 takes all, here and below
    config.data.validation_sentences = 200
    config.data.test_sentences = 0
    config.data.window = 64  # characters that a prediction may see
    config.data.train_stride = 64  # characters from one training window to the next
    config.data.min_count = 5  # all rarer characters share one number

    if variant == "smoke":
        config.name = "language_model-smoke"
        config.rates = (0.1, 0.5)
        config.seeds = 2
        config.features = 16
        config.epochs = 2
        config.checkpoint_every = 16
        config.data.train_sentences = 40
        config.data.validation_sentences = 20
        config.data.test_sentences = 20
        config.data.window = 32
        config.data.train_stride = 32
    return config
