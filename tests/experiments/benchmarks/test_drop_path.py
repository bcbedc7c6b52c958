import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import drop_path
from experiments.benchmarks.libraries import FLAX, FLAX_AGAIN, OURS
from flax_spatialdrop import sample_mask


@pytest.mark.parametrize("form", ["chain", "scan", "subset, chain"])
def test_every_contender_has_a_time_and_its_memory(form, monkeypatch):
    monkeypatch.setattr(drop_path, "SIZES", ((4, 3, 5),))
    monkeypatch.setattr(drop_path, "SIZES_OF_SUBSETS", ((4, 2, 3, 5),))
    monkeypatch.setattr(drop_path, "DEPTH", 3)
    monkeypatch.setattr(drop_path, "KEPT", (1, 2))
    time, memory = drop_path.measure(re.compile(f"drop path: {form}"), 0)
    is_subset = form.startswith("subset")
    names = {drop_path.SUBSET} if is_subset else {OURS, FLAX, FLAX_AGAIN}
    names |= {drop_path.WITHOUT, drop_path.ROWS}
    assert names == set(time.values) == set(memory.values)
    x = "f32[4, 2, 3]" if is_subset else "f32[4, 3]"
    assert time.row == memory.row == f"{form} of 3, {x}, 5 inside"
    assert time.baseline == drop_path.WITHOUT
    assert memory.values.get(FLAX) == memory.values.get(FLAX_AGAIN)


def test_keys_keep_as_many_blocks_as_they_say():
    for kept in drop_path.KEPT:
        keys = jax.random.split(drop_path.first_key(kept), drop_path.DEPTH)
        draws = [bool(sample_mask(key, drop_path.RATE, (1, 1))) for key in keys]
        assert sum(draws) == kept


def test_both_forms_are_the_same_loss():
    w1, w2 = jnp.ones((3, 2, 4)) / 9, jnp.ones((3, 4, 2)) / 9
    x, key = jnp.ones((5, 2)), jax.random.key(1)
    chain = drop_path.chain_loss(drop_path.ours)(key, x, list(zip(w1, w2, strict=True)))
    scan = drop_path.scan_loss(drop_path.ours)(key, x, (w1, w2))
    np.testing.assert_allclose(chain, scan, rtol=1e-5)
    assert float(chain) != float((x**2).sum())
