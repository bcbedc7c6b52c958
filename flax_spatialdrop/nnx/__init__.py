"""NNX modules: the functions of `flax_spatialdrop` with the manners of flax.nnx.Dropout."""

from ._alpha import AlphaDropout as AlphaDropout
from ._alpha import FeatureAlphaDropout as FeatureAlphaDropout
from ._attention import HeadDropout as HeadDropout
from ._attention import dot_product_attention as dot_product_attention
from ._bidirectional import Bidirectional as Bidirectional
from ._cutout import Cutout as Cutout
from ._drop_block import DropBlock as DropBlock
from ._drop_in import drop_in as drop_in
from ._dropout import Dropout as Dropout
from ._dropout import FeatureDropout as FeatureDropout
from ._dropout import SampleDropout as SampleDropout
from ._dropout import TimestepDropout as TimestepDropout
from ._embedding_dropout import EmbeddingDropout as EmbeddingDropout
from ._gaussian import GaussianDropout as GaussianDropout
from ._patch_dropout import PatchDropout as PatchDropout
from ._recurrent import GRU as GRU
from ._recurrent import LSTM as LSTM
from ._recurrent import SimpleRNN as SimpleRNN
from ._rnn import RNN as RNN
from ._spatial_dropout import SpatialDropout as SpatialDropout
from ._spatial_dropout import SpatialDropout1D as SpatialDropout1D
from ._spatial_dropout import SpatialDropout2D as SpatialDropout2D
from ._spatial_dropout import SpatialDropout3D as SpatialDropout3D
from ._summarize import summarize as summarize
from ._tokens import TokenDropout as TokenDropout
