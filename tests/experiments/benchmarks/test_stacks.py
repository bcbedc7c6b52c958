import re

import jax.numpy as jnp

from experiments.benchmarks import stacks
from experiments.benchmarks.cases import NO_DROPOUT
from experiments.benchmarks.libraries import FLAX, FLAX_AGAIN, OURS
from experiments.stacks import Example
from flax_spatialdrop import dropout


def test_every_contender_has_a_time_and_its_memory(monkeypatch):
    def example(rate):
        def loss(params, key, batch):
            return (dropout(key, params * batch, rate or 0.0) ** 2).mean()

        return Example(loss, jnp.ones((1, 3)), jnp.ones((4, 3)))

    monkeypatch.setattr(
        stacks, "STACKS", {"mine": (example, 0.5, 0.25), "other": (None, None, None)}
    )
    time, memory = stacks.measure(re.compile("stacks: mine"), 0)
    assert {OURS, NO_DROPOUT, FLAX, FLAX_AGAIN} == set(time.values) == set(memory.values)
    assert time.row == memory.row == "mine"
    assert time.baseline == NO_DROPOUT
    assert memory.values[FLAX] == memory.values[FLAX_AGAIN]
