"""An experiment whose networks are small, so that it compiles fast."""

from functools import partial

from flax import linen as nn

from experiments import main
from experiments.tagging.task import Tagging
from experiments.tasks import TASKS
from flax_spatialdrop import linen


class SmallTagger(nn.Module):
    """Embedding, dropout and Dense. A grid takes any network, and this one compiles fast."""

    words: int
    tags: int
    regularizer: str

    batch_norm: bool = False

    @nn.compact
    def __call__(self, words, lengths, rate, *, deterministic):
        x = nn.Embed(self.words, 8)(words)
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=deterministic)(x)
        if self.regularizer != "none":
            x = linen.SpatialDropout1D(rate, deterministic=deterministic)(x)
        return nn.Dense(self.tags)(x)


class Small(Tagging):
    tagger = SmallTagger

    def network(self, regularizer):
        return self.tagger(self.data.record["words"], self.data.record["tags"], regularizer)


class Normed(Small):
    """With batch statistics beside its parameters."""

    tagger = staticmethod(partial(SmallTagger, batch_norm=True))


def run(args, program=main.main):
    """Runs the program with small networks for the tagging task."""
    TASKS["tagging"] = Small
    return program(args)


run_and_leave = partial(run, program=main.run_and_leave)
