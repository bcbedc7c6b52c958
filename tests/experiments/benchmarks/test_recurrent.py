import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import recurrent
from experiments.benchmarks.libraries import FLAX, OURS


def test_every_contender_has_a_time_and_its_memory(monkeypatch):
    monkeypatch.setattr(recurrent, "SIZES", ((2, 9, 3, 4),))
    with jax.numpy_rank_promotion("allow"):  # Keras needs it
        time, memory = recurrent.measure(re.compile("GRU"), 0)
    needed = {OURS, FLAX, recurrent.WITHOUT, recurrent.PER_GATE}
    assert needed <= set(time.values) == set(memory.values)
    assert time.row == memory.row == "GRU f32[2, 9, 3] -> 4"
    # Flax is compiled twice. A mask for each gate takes more memory than one mask.
    assert memory.values[FLAX] == memory.values["Flax again"]
    assert memory.values[recurrent.PER_GATE] > memory.values[OURS]


@pytest.mark.parametrize("row", ["LSTM bf16[2, 9, 3] -> 4", "GRU bf16[2, 9, 3] -> 4"])
def test_rows_for_tpus_have_flax_s_gradient_in_bfloat16(row, monkeypatch):
    monkeypatch.setattr(recurrent, "SIZES", ((2, 9, 3, 4),))
    (case,) = (case for case in recurrent.cases() if case.row == row)
    rng = np.random.default_rng(0)
    arrays = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), case.shapes)
    found = {name: f(jax.random.key(0), *arrays) for name, f in case.programs.items()}
    for ours, flax in zip(
        *map(jax.tree.leaves, (found[recurrent.WITHOUT], found[FLAX])), strict=True
    ):
        assert ours.dtype == flax.dtype == jnp.bfloat16
        scale = np.abs(flax.astype(np.float32)).max()
        np.testing.assert_allclose(ours / scale, flax / scale, rtol=0, atol=0.02)
    dropped, whole = found[OURS][1], found[recurrent.WITHOUT][1]
    assert (dropped == 0).any()
    assert not (whole == 0).any()
