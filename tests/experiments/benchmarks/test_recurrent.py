import re

import jax

from experiments.benchmarks import recurrent
from experiments.benchmarks.libraries import FLAX, OURS


def test_every_contender_has_a_time_and_its_memory(monkeypatch):
    monkeypatch.setattr(recurrent, "SIZES", ((2, 9, 3, 4),))
    with jax.numpy_rank_promotion("allow"):  # as Keras is written
        time, memory = recurrent.measure(re.compile("GRU"), 0)
    needed = {OURS, FLAX, recurrent.WITHOUT, recurrent.PER_GATE}
    assert needed <= set(time.values) == set(memory.values)
    assert time.row == memory.row == "GRU f32[2, 9, 3] -> 4"
    # The same program compiled twice; and a mask for each gate takes more than one for all.
    assert memory.values[FLAX] == memory.values["Flax again"]
    assert memory.values[recurrent.PER_GATE] > memory.values[OURS]
