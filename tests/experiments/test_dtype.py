"""`config.dtype` is the type that every network computes in."""

import re

import jax
import jax.numpy as jnp
import pytest

from experiments.forecasting.models import (
    LSTM_REGULARIZERS,
    ConvolutionalForecaster,
    RecurrentForecaster,
)
from experiments.language.models import LanguageModel
from experiments.tagging.models import Seq2Seq, Tagger

WORDS = jnp.array([[2, 3, 4, 0], [5, 2, 3, 4]])
LENGTHS = jnp.array([3, 4])
WEATHER = jnp.ones((2, 16, 3))
NETWORKS = {
    "tagger": (Tagger(6, 3, 8, 8, "SpatialDropout1D", dtype="bfloat16"), WORDS, LENGTHS),
    "seq2seq": (Seq2Seq(6, 3, 8, 8, "RecurrentDropout", dtype="bfloat16"), WORDS, LENGTHS),
    "LSTM": (RecurrentForecaster(8, 2.0, LSTM_REGULARIZERS["both"], "bfloat16"), WEATHER),
    "zoneout": (RecurrentForecaster(8, 2.0, LSTM_REGULARIZERS["zoneout"], "bfloat16"), WEATHER),
    "CNN": (ConvolutionalForecaster(8, 2.0, True, dtype="bfloat16"), WEATHER),
    "blockwise": (LanguageModel(7, 1, 8, 2, "blockwise", "keys", "bfloat16"), WORDS),
    "fused": (LanguageModel(7, 1, 8, 2, "fused", "keys", "bfloat16"), WORDS),
}


PRODUCT = r"stablehlo\.(?:dot_general|convolution).* : \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\)"


@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_in_bfloat16_and_parameters_and_outputs_in_float32(name):
    network, *inputs = NETWORKS[name]
    rate, key = jnp.float32(0.5), jax.random.key(0)

    def forward(params):
        return network.apply(
            params, *inputs, rate, deterministic=False, rngs={"dropout": jax.random.key(1)}
        )

    params = jax.eval_shape(lambda: network.init(key, *inputs, rate, deterministic=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    lowered = jax.jit(forward).lower(params)
    assert lowered.out_info.dtype == jnp.float32
    types = re.findall(PRODUCT, lowered.as_text())
    assert set(types) == {("bf16", "bf16")}
