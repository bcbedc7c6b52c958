"""NNX modules: the functions of `flax_spatialdrop` with the manners of flax.nnx.Dropout."""

from ._bidirectional import Bidirectional as Bidirectional
from ._drop_in import drop_in as drop_in
from ._drop_path import DropPath as DropPath
from ._drop_path import ResidualDropPath as ResidualDropPath
from ._dropout import Dropout as Dropout
from ._dropout import FeatureDropout as FeatureDropout
from ._dropout import SampleDropout as SampleDropout
from ._dropout import TimestepDropout as TimestepDropout
from ._recurrent import GRU as GRU
from ._recurrent import LSTM as LSTM
from ._recurrent import SimpleRNN as SimpleRNN
from ._rnn import RNN as RNN
from ._spatial_dropout import SpatialDropout as SpatialDropout
from ._spatial_dropout import SpatialDropout1D as SpatialDropout1D
from ._spatial_dropout import SpatialDropout2D as SpatialDropout2D
from ._spatial_dropout import SpatialDropout3D as SpatialDropout3D
from ._summarize import summarize as summarize
