"""Functional layers with a key that is passed down, as in AXLearn."""

import zlib

import jax
import numpy as np
import pytest

from experiments.stacks import axlearn
from experiments.stacks.layers import key_of
from flax_spatialdrop import apply_mask, sample_mask
from tests.stacks.recorded import DEPTH, assert_close, kept_bytes, masks_of, value_and_gradient

WAYS = [{"scan": scan, "remat": remat} for scan in (False, True) for remat in (False, True)]


def by_rule(key):
    """The masks of all layers, with each key written as a line of fold_ins."""
    for layer in range(DEPTH):
        for name in (b"dropout1", b"dropout2"):
            layer_key = jax.random.fold_in(jax.random.fold_in(key, layer), zlib.crc32(name))
            yield np.asarray(sample_mask(layer_key, axlearn.RATE, (2, 6, 8)))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_masks_come_from_the_numbers_and_names_of_layers_alone(way):
    expected = {mask.tobytes() for mask in by_rule(jax.random.key(5))}
    assert len(expected) == 2 * DEPTH
    assert masks_of(axlearn, axlearn.OURS, **way) == expected


def test_scan_and_remat_keep_the_loss_and_its_gradient():
    expected = value_and_gradient(axlearn, axlearn.OURS, scan=False)
    assert_close(value_and_gradient(axlearn, axlearn.OURS, scan=True, remat=True), expected)


def test_it_computes_the_dropout_written_by_hand_from_the_same_mask():
    def with_their_mask(key, x):
        dropped = jax.random.bernoulli(key, axlearn.RATE, x.shape)
        return apply_mask(x, ~dropped, axlearn.RATE)

    theirs = value_and_gradient(axlearn, axlearn.THEIRS)
    assert_close(value_and_gradient(axlearn, with_their_mask), theirs)


def test_the_backward_pass_keeps_a_key_and_no_mask():
    key, masks = 2 * 4, 2 * 6 * 8  # bytes for each dropout
    less = kept_bytes(axlearn, axlearn.THEIRS) - kept_bytes(axlearn, axlearn.OURS)
    assert less >= 2 * DEPTH * (masks - key)


def test_keys_of_a_split_are_those_of_fold_in():
    # So layers that scan over split keys follow the rule already.
    split = jax.random.split(jax.random.key(5), DEPTH)
    for number in range(DEPTH):
        own = key_of(jax.random.key(5), number)
        assert (jax.random.key_data(split[number]) == jax.random.key_data(own)).all()
