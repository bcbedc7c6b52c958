"""Part-of-speech tagging: does dropout help, after the embedding or in the GRUs?

    python -m experiments.main --config=configs/pos_tagging.py

This takes 6 min 12 s on 2 CPU cores, with all compiles. It trains on 1,000 sentences of UD
Portuguese Porttinari, because regularizers matter most with little data
(--config.data.train_sentences=0 takes all). The expected results are accuracy in % of the test
words, as mean and 95 % interval over 5 seeds of one split:

    most frequent tag         82.5
    none                      90.8 +- 0.1
    Dropout           at 0.6  91.2 +- 0.1    +0.37 +- 0.24 over none
    SpatialDropout1D  at 0.6  91.2 +- 0.2    +0.37 +- 0.31
    TimestepDropout   at 0.2  91.0 +- 0.1    +0.18 +- 0.26
    RecurrentDropout  at 0.4  91.1 +- 0.3    +0.27 +- 0.27

TimestepDropout chose the lowest rate offered, so a lower one may be better still.

RecurrentDropout drops inside the GRUs, and the others drop after the word vectors. `:classic` is
the classic tagger in Keras: all GRUs have dropout=.2 and recurrent_dropout=.2. It shows what a
dropout after the word vectors adds.

`:seq2seq` (2 min 50 s) passes each sentence of at most 12 words through one vector, which is too
small for tagging:

    most frequent tag         81.0
    none                      39.2 +- 2.1
    Dropout           at 0.8  46.1 +- 7.5    +6.97 +- 9.13 over none
    SpatialDropout1D  at 0.8  43.8 +- 5.3    +4.64 +- 7.14
    TimestepDropout   at 0.2  40.0 +- 4.2    +0.80 +- 2.92
    RecurrentDropout  at 0.2  30.8 +- 2.4    -8.38 +- 4.35

Both tables are from experiments/results/NAME/results.md. `:smoke` (a minute or two) only tests that
all parts work.
"""

from ml_collections import ConfigDict

from experiments import checks, devices, optimizer, rate_schedule

VARIANTS = ("tagger", "classic", "seq2seq", "smoke")


def get_config(variant: str = "tagger") -> ConfigDict:
    """Returns the setting of a variant: "tagger" (the default), "classic", "seq2seq" or "smoke"."""
    checks.variant("pos_tagging", variant, VARIANTS)
    config = ConfigDict()
    config.name = "pos_tagging"
    config.task = "tagging"
    config.model = "tagger"
    embedding = ("none", "Dropout", "SpatialDropout1D", "TimestepDropout")
    config.regularizers = (*embedding, "RecurrentDropout")
    config.rates = (0.2, 0.4, 0.6, 0.8)
    config.seeds = 5

    config.features = 64
    config.hidden = 32
    config.dropout = 0.0  # of every GRU's input, with every regularizer
    config.recurrent_dropout = 0.0  # of every GRU's state
    config.batch_size = 32
    config.epochs = 100
    config.patience = 4
    config.steps_per_call = 0  # steps in one program; 0 is an epoch
    config.checkpoint_every = 1000  # steps from one checkpoint to the next; 0 for none

    config.optimizer = optimizer.defaults(learning_rate=3e-3)
    config.rate_schedule = rate_schedule.defaults()
    config.mesh = devices.defaults()  # how runs are spread over devices
    config.dtype = "float32"  # or "bfloat16", to compute in; parameters stay float32

    config.data = ConfigDict()
    config.data.path = ""  # a CoNLL-U file; "" is the Porttinari treebank
    config.data.test_path = ""  # "" splits the test part from the corpus
    config.data.split_seed = 0
    config.data.train_sentences = 1000  # 0 takes all, here and below
    config.data.validation_sentences = 400
    config.data.test_sentences = 0
    config.data.max_length = 48  # longer sentences are left out
    config.data.min_count = 2
    config.data.min_class_count = 5

    if variant == "classic":
        config.name = "pos_tagging-classic"
        config.regularizers = embedding
        config.dropout = 0.2
        config.recurrent_dropout = 0.2
    elif variant == "seq2seq":
        config.name = "pos_tagging-seq2seq"
        config.model = "seq2seq"
        config.hidden = 64
        config.data.max_length = 12
    elif variant == "smoke":
        config.name = "pos_tagging-smoke"
        config.rates = (0.2, 0.4)
        config.seeds = 2
        config.batch_size = 8
        config.epochs = 6
        config.checkpoint_every = 50
        config.data.train_sentences = 200
        config.data.validation_sentences = 100
        config.data.test_sentences = 100
        config.data.max_length = 24
    return config
