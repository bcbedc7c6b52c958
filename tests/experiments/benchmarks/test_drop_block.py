import re

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import drop_block
from experiments.benchmarks.architectures import ResNet50
from experiments.benchmarks.cases import COPY, NO_DROPOUT
from experiments.benchmarks.libraries import FLAX, OURS

X = jnp.ones((64, 14, 14, 8))


def test_every_contender_of_a_layer_but_the_copy_drops_blocks():
    (case, _) = drop_block.cases()
    for name, program in case.programs.items():
        share = float(jnp.mean(jax.jit(program)(jax.random.key(0), X, X) == 0))
        assert share == 0 if name == COPY else 0.05 < share < 0.15, name


def test_one_window_drops_what_the_paper_s_formula_does():
    """The formula counts overlaps of blocks twice, so it drops only 0.358 of these maps."""
    share = float(jnp.mean(drop_block.one_window(jax.random.key(0), X, 0.5) == 0))
    assert 0.33 < share < 0.39


def test_the_shares_are_those_of_each_library(monkeypatch):
    monkeypatch.setattr(drop_block, "MAPS", (512, 14, 14, 1))
    (record,) = drop_block.measure(re.compile("asked for 0.5"))
    assert record.row == "asked for 0.5, 14 x 14, block 7"
    assert abs(record.values[OURS] - 0.5) < 0.05
    assert record.values[drop_block.ONE_WINDOW] < 0.4


@pytest.mark.parametrize("name", [NO_DROPOUT, OURS, FLAX])
def test_a_training_step_returns_a_state_like_the_one_before(name):
    *_, case = drop_block.cases_for_tpu()
    images, state = case.shapes
    new = jax.eval_shape(case.programs[name], jax.random.key(0), images, state)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )


def test_a_regularizer_stands_after_each_block_of_the_last_two_stages():
    seen = []

    def after():
        return lambda x: seen.append(x.shape) or x

    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.bfloat16)
    jax.eval_shape(ResNet50(after=after).init, jax.random.key(0), images)
    assert seen == [(2, 4, 4, 1024)] * 6 + [(2, 2, 2, 2048)] * 3
