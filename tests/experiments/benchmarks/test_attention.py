import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import attention
from experiments.benchmarks.cases import NO_DROPOUT
from experiments.benchmarks.libraries import FLAX, OURS

SHAPE = (2, 24, 4, 8)
QKV = tuple(jax.random.normal(jax.random.key(i), SHAPE) for i in range(3))
WITHOUT = {NO_DROPOUT, attention.JAX}


@pytest.mark.parametrize(
    "contenders", [attention.contenders, partial(attention.causal_contenders, SHAPE[1])]
)
def test_all_attend_to_the_same_keys_and_the_masks_are_flax_s(contenders):
    found = {name: f(*QKV, dropout_rng=jax.random.key(0)) for name, f in contenders().items()}
    for name in WITHOUT:
        np.testing.assert_allclose(found[name], found[NO_DROPOUT], rtol=2e-5, atol=2e-6)
    for name in (OURS, attention.BLOCKWISE):
        np.testing.assert_allclose(found[name], found[FLAX], rtol=2e-5, atol=2e-6)
    for name in found.keys() - WITHOUT:
        assert not np.allclose(found[name], found[NO_DROPOUT], atol=1e-2), name


def test_in_blocks_memory_grows_with_the_length_alone(monkeypatch):
    monkeypatch.setattr(attention, "LENGTHS", (1024, 2048, 4096))
    monkeypatch.setattr(attention, "SHAPE", (1, 2048, 1, 4))
    short, long = attention.measure(re.compile("gradient"), 0)
    assert short.row == "f32[1, 1024, 1, 4] gradient"
    assert short.values.keys() == {NO_DROPOUT, OURS, attention.BLOCKWISE, FLAX}
    assert long.values[attention.BLOCKWISE] < 4 * short.values[attention.BLOCKWISE]
    assert long.values[FLAX] > 10 * short.values[FLAX]


def test_a_row_for_tpus_is_in_bfloat16():
    (case,) = attention.cases_for_tpu()
    assert case.row == "bf16[1, 4096, 8, 128] gradient"
    assert {s.dtype for s in case.shapes} == {jnp.dtype(jnp.bfloat16)}
    gradients = jax.eval_shape(case.programs[OURS], jax.random.key(0), *case.shapes)
    assert [(g.shape, g.dtype) for g in gradients] == [(s.shape, s.dtype) for s in case.shapes]


def test_gpus_have_larger_rows_in_bfloat16(monkeypatch):
    rows = [case.row for case in attention.cases()]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    more = [case.row for case in attention.cases()][len(rows) :]
    assert more[2:] == ["bf16[4, 4096, 16, 64] gradient", "causal bf16[4, 4096, 16, 64] gradient"]


def test_a_training_step_with_each_attention(monkeypatch):
    monkeypatch.setattr(attention, "TOKENS", (2, 12))
    monkeypatch.setattr(attention, "MODEL", {"layers": 1, "features": 8, "heads": 2})
    time, memory = attention.measure(re.compile("training step"), 0)
    assert time.row == "training step of a language model of [2, 12] characters"
    assert {NO_DROPOUT, OURS, attention.BLOCKWISE, attention.HEADS, FLAX} <= time.values.keys()
    assert memory.values.keys() == time.values.keys()
    assert memory.values[FLAX] == memory.values["Flax again"]
