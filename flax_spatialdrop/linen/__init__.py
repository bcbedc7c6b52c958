"""Linen modules: the functions of `flax_spatialdrop` with the manners of flax.linen.Dropout."""

from ._alpha import AlphaDropout, FeatureAlphaDropout
from ._attention import HeadDropout, dot_product_attention
from ._bidirectional import Bidirectional
from ._blocks import DropBlock
from ._blockwise_attention import blockwise_attention
from ._cutout import Cutout
from ._drop_in import drop_in
from ._drop_path import DropPath, ResidualDropPath
from ._dropout import Dropout, FeatureDropout, SampleDropout, TimestepDropout
from ._embedding_dropout import EmbeddingDropout
from ._gaussian import GaussianDropout
from ._patch_dropout import PatchDropout
from ._recurrent import GRU, LSTM, SimpleRNN
from ._rnn import RNN
from ._spatial_dropout import SpatialDropout, SpatialDropout1D, SpatialDropout2D, SpatialDropout3D
from ._tokens import TokenDropout
from ._tools import summarize

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AlphaDropout",
    "Bidirectional",
    "Cutout",
    "DropBlock",
    "DropPath",
    "Dropout",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "FeatureDropout",
    "GaussianDropout",
    "HeadDropout",
    "PatchDropout",
    "ResidualDropPath",
    "SampleDropout",
    "SimpleRNN",
    "SpatialDropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "TimestepDropout",
    "TokenDropout",
    "blockwise_attention",
    "dot_product_attention",
    "drop_in",
    "summarize",
]
