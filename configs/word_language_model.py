"""A language model of words: which dropout helps an LSTM, and which a transformer?

    python -m experiments.main --config=configs/word_language_model.py
    python -m experiments.main --config=configs/word_language_model.py:transformer

The text is the King James Bible, cut to 15,000 words for training, few enough to overfit. Papers
predict for the LSTM, by their results on the Penn Treebank:

- Variational dropout (Gal and Ghahramani, 2016), which drops words, inputs, states and outputs with
  one mask for a window, is better than element-wise dropout of inputs and outputs (Zaremba et al.,
  2014), and better still with Monte Carlo: 82.7, then 79.7, then 78.6 with a medium LSTM.
- Of the parts of AWD-LSTM (Merity et al., 2018), dropped recurrent weights matter most.

It takes 12 min on 2 CPU cores, beside other programs. Expected is the perplexity per word, as mean
and 95 % interval over 5 seeds of one split:

    3-gram              55.38
    none                48.98 +- 0.87
    element-wise at 0.5 47.11 +- 0.80    -1.87 +- 1.23 over none
    embedding    at 0.1 48.95 +- 0.84    -0.04 +- 1.00
    inputs       at 0.2 47.64 +- 0.35    -1.34 +- 1.02
    states       at 0.5 48.10 +- 0.62    -0.89 +- 1.46
    outputs      at 0.2 48.31 +- 0.84    -0.67 +- 0.90
    weights      at 0.5 47.93 +- 0.54    -1.05 +- 0.53
    variational  at 0.2 47.96 +- 1.21    -1.02 +- 1.50
    AWD-LSTM     at 0.2 47.76 +- 0.79    -1.22 +- 1.48

Element-wise dropout, dropped inputs and dropped weights help. The published order does not show:
variational dropout is not better than element-wise dropout here, and Monte Carlo makes it worse. A
first run had at most 24 epochs and no rate of 0.1. Many of its runs were cut off, so both were
changed; its test scores, of the same order, had been seen.

`:transformer` trains a transformer. Vaswani et al. (2017) drop residuals and embeddings, so
residual dropout should matter most, and all places together should be best. It takes 17 min on 2
CPU cores that other programs use too:

    3-gram            55.38
    none              57.98 +- 1.39
    embedding at 0.3  55.65 +- 2.13    -2.33 +- 3.39 over none
    attention at 0.3  56.73 +- 0.89    -1.25 +- 1.50
    residual  at 0.1  58.04 +- 0.53    +0.06 +- 1.46
    layer     at 0.1  57.80 +- 1.31    -0.17 +- 1.73
    all       at 0.1  55.48 +- 0.92    -2.50 +- 1.91

All places together help, and no place alone makes a difference that five seeds can show. The 3-gram
is as good as the best network.

`:smoke` (15 s) only tests that all parts work. `:gpu` is a medium LSTM on all 750,000
words, about as many as the Penn Treebank has. It is ready to run, but has not been run.
"""

from ml_collections import ConfigDict

from experiments import checks, devices, optimizer, rate_schedule

VARIANTS = ("lstm", "transformer", "smoke", "gpu")


def get_config(variant: str = "lstm") -> ConfigDict:
    """Returns the setting of a variant: "lstm" (the default), "transformer", "smoke" or "gpu"."""
    checks.variant("word_language_model", variant, VARIANTS)
    config = ConfigDict()
    config.name = "word_language_model"
    config.task = "word_lstm"
    config.regularizers = (
        *("none", "element-wise", "embedding", "inputs", "states", "outputs", "weights"),
        *("variational", "AWD-LSTM"),
    )
    config.rates = (0.1, 0.2, 0.5)
    config.seeds = 5

    config.layers = 2
    config.features = 96
    config.heads = 4  # of the transformer's attention
    config.batch_size = 16
    config.epochs = 60
    config.patience = 3
    config.steps_per_call = 0  # steps in one program; 0 is an epoch
    config.checkpoint_every = 1000  # steps from one checkpoint to the next; 0 for none

    config.optimizer = optimizer.defaults(learning_rate=5e-3)
    config.rate_schedule = rate_schedule.defaults()
    config.mesh = devices.defaults()  # how runs are spread over devices
    config.dtype = "float32"  # or "bfloat16", to compute in; parameters stay float32

    config.data = ConfigDict()
    config.data.source = "king_james"  # or "porttinari", Portuguese news
    config.data.path = ""  # a folder with files named train, valid and test, in place of the source
    config.data.split_seed = 0
    config.data.train_words = 15_000  # 0 takes all, here and below
    config.data.validation_words = 4_000
    config.data.test_words = 6_000
    config.data.vocabulary = 1_000  # the most frequent words, and one for all others
    config.data.window = 32  # words that a network may see
    config.data.context = 16  # of them, those that are not predicted in validation and test

    if variant == "transformer":
        config.name = "word_language_model-transformer"
        config.task = "word_transformer"
        config.regularizers = ("none", "embedding", "attention", "residual", "layer", "all")
        config.rates = (0.1, 0.3)
        config.epochs = 24
        config.optimizer.learning_rate = 3e-3
    if variant == "smoke":
        config.name = "word_language_model-smoke"
        config.regularizers = ("none", "AWD-LSTM")
        config.rates = (0.1, 0.5)
        config.seeds = 2
        config.features = 16
        config.epochs = 2
        config.checkpoint_every = 2
        config.data.update({"train_words": 1_000, "validation_words": 300, "test_words": 300})
        config.data.vocabulary = 100
    if variant == "gpu":
        config.name = "word_language_model-gpu"
        config.features = 650
        config.batch_size = 64
        config.epochs = 60
        config.patience = 5
        config.optimizer = optimizer.defaults(learning_rate=1e-3, clip_norm=1.0)
        config.data.update({"train_words": 0, "validation_words": 0, "test_words": 0})
        config.data.update({"vocabulary": 10_000, "window": 70, "context": 35})
    return config
