"""NNX modules for the functions of `flax_spatialdrop`; they are used like flax.nnx.Dropout."""

from ._attention import HeadDropout, blockwise_attention, dot_product_attention
from ._blocks import Cutout, DropBlock
from ._drop_in import drop_in
from ._drop_path import DropPath, ResidualDropPath
from ._dropout import (
    AlphaDropout,
    Dropout,
    FeatureAlphaDropout,
    FeatureDropout,
    GaussianDropout,
    SampleDropout,
    SpatialDropout,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    TimestepDropout,
)
from ._inputs import ConditionDropout, ModalityDropout
from ._insert import insert
from ._recurrent import GRU, LSTM, RNN, Bidirectional, SimpleRNN
from ._spans import SpecAugment
from ._tokens import EmbeddingDropout, EmbeddingNoise, PatchDropout, TokenDropout
from ._tools import summarize

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AlphaDropout",
    "Bidirectional",
    "ConditionDropout",
    "Cutout",
    "DropBlock",
    "DropPath",
    "Dropout",
    "EmbeddingDropout",
    "EmbeddingNoise",
    "FeatureAlphaDropout",
    "FeatureDropout",
    "GaussianDropout",
    "HeadDropout",
    "ModalityDropout",
    "PatchDropout",
    "ResidualDropPath",
    "SampleDropout",
    "SimpleRNN",
    "SpatialDropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "SpecAugment",
    "TimestepDropout",
    "TokenDropout",
    "blockwise_attention",
    "dot_product_attention",
    "drop_in",
    "insert",
    "summarize",
]
