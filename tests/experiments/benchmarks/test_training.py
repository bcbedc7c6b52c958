import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import training
from experiments.benchmarks.cases import NO_DROPOUT
from experiments.benchmarks.libraries import FLAX, FLAX_AGAIN, OURS, OURS_FAST

KEY = jax.random.key(0)
KINDS = {"decoder": training.decoders, "tagger": training.taggers}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(training, "VOCABULARY", 16)
    monkeypatch.setattr(training, "DECODER", {"layers": 2, "features": 8, "heads": 2})
    monkeypatch.setattr(training, "DECODER_BATCH", (2, 6))
    monkeypatch.setattr(training, "TAGGER", {"features": 8})
    monkeypatch.setattr(training, "TAGGER_BATCH", (2, 6))
    with jax.numpy_dtype_promotion("standard"):  # Flax's GRU needs it for a carry in float32
        yield


def test_time_and_memory_of_a_step(monkeypatch):
    found = training.taggers()
    contenders = {name: found[name] for name in (NO_DROPOUT, OURS)}
    monkeypatch.setattr(training, "taggers", lambda: contenders)
    time, memory = training.measure(re.compile("tagger"), 0)
    assert time.row == memory.row == "tagger, two GRUs of 8, bf16, [2, 6] tokens"
    assert time.values.keys() == memory.values.keys() == {NO_DROPOUT, OURS}
    assert time.baseline == NO_DROPOUT


@pytest.mark.parametrize("kind", KINDS)
def test_all_train_the_same_parameters_in_float32(kind):
    tokens = jnp.zeros((2, 6), int)
    found = KINDS[kind]()
    of_each = {
        name: jax.eval_shape(
            contender.model.init, dict.fromkeys(("params", "dropout"), KEY), tokens
        )
        for name, contender in found.items()
    }
    assert {FLAX, FLAX_AGAIN, OURS, OURS_FAST} < of_each.keys()
    shapes = [(a.shape, a.dtype) for a in jax.tree.leaves(of_each[NO_DROPOUT])]
    assert {dtype for _, dtype in shapes} == {jnp.dtype("float32")}
    for name, params in of_each.items():
        assert [(a.shape, a.dtype) for a in jax.tree.leaves(params)] == shapes, name


@pytest.mark.parametrize("kind", KINDS)
def test_ours_has_flax_s_masks_and_fast_keys_have_others(kind, monkeypatch):
    monkeypatch.setattr(training, "BF16", {"dtype": jnp.float32})  # to compare more digits
    tokens = jnp.arange(12).reshape(2, 6)
    found = KINDS[kind]()
    params = found[NO_DROPOUT].model.init(KEY, tokens)
    losses = {
        name: float(jax.jit(training._loss, static_argnums=0)(found[name], params, KEY, tokens))
        for name in (NO_DROPOUT, OURS, OURS_FAST, FLAX)
    }
    np.testing.assert_allclose(losses[OURS], losses[FLAX], rtol=1e-5)
    for name in (NO_DROPOUT, OURS_FAST):
        assert abs(losses[name] - losses[FLAX]) > 3e-4, name
