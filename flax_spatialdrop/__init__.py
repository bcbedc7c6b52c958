"""Structured dropout for JAX and Flax.

Functions take `(key, x, rate, *, options)`; the modules are in `flax_spatialdrop.linen` and
`flax_spatialdrop.nnx`.
`rate` is always the probability to drop.
"""

from ._alpha import alpha_dropout as alpha_dropout
from ._alpha import feature_alpha_dropout as feature_alpha_dropout
from ._apply import apply_mask as apply_mask
from ._attention import head_dropout as head_dropout
from ._cutout import cutout as cutout
from ._drop_block import drop_block as drop_block
from ._drop_connect import drop_connect as drop_connect
from ._drop_path import drop_path as drop_path
from ._drop_path import residual_drop_path as residual_drop_path
from ._dropout import dropout as dropout
from ._dropout import feature_dropout as feature_dropout
from ._dropout import sample_dropout as sample_dropout
from ._dropout import timestep_dropout as timestep_dropout
from ._embedding_dropout import embedding_dropout as embedding_dropout
from ._explain import explain as explain
from ._explain import plot_mask as plot_mask
from ._fast_key import fast_key as fast_key
from ._gaussian import gaussian_dropout as gaussian_dropout
from ._mask import sample_mask as sample_mask
from ._mask_block import mask_block as mask_block
from ._monte_carlo import MonteCarlo as MonteCarlo
from ._monte_carlo import monte_carlo as monte_carlo
from ._patch_dropout import patch_dropout as patch_dropout
from ._rates import linear_rates as linear_rates
from ._recurrent import recurrent_dropout as recurrent_dropout
from ._recurrent import recurrent_masks as recurrent_masks
from ._recurrent import zoneout as zoneout
from ._recurrent_arguments import RecurrentMasks as RecurrentMasks
from ._spatial_dropout import spatial_dropout as spatial_dropout
from ._spatial_dropout import spatial_dropout_1d as spatial_dropout_1d
from ._spatial_dropout import spatial_dropout_2d as spatial_dropout_2d
from ._spatial_dropout import spatial_dropout_3d as spatial_dropout_3d
from ._summary import Site as Site
from ._summary import Summary as Summary
from ._tokens import token_dropout as token_dropout

__version__ = "0.1.0"
__all__ = [name for name in dir() if not name.startswith("_")]  # not linen and nnx, once imported
