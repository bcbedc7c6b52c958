"""Structured dropout for JAX and Flax.

Most functions take `(key, x, rate, *, options)`. A `rate` is always the probability to drop.
Their modules are in `flax_spatialdrop.linen` and `flax_spatialdrop.nnx`.
"""

from . import schedules as schedules
from ._apply import apply_mask
from ._drop_in import DropInReport
from ._ops.alpha import alpha_dropout, feature_alpha_dropout
from ._ops.blocks import drop_block
from ._ops.cutout import cutout
from ._ops.dropout import (
    dropout,
    feature_dropout,
    head_dropout,
    sample_dropout,
    spatial_dropout,
    spatial_dropout_1d,
    spatial_dropout_2d,
    spatial_dropout_3d,
    timestep_dropout,
)
from ._ops.gaussian import gaussian_dropout
from ._ops.inputs import condition_dropout, modality_dropout
from ._ops.noise import embedding_noise
from ._ops.patches import patch_dropout, patch_mask, restore_patches
from ._ops.path import drop_path, residual_drop_path
from ._ops.spans import span_mask, spec_augment
from ._ops.tokens import embedding_dropout, token_dropout
from ._ops.weights import drop_connect
from ._random.keys import fast_key, fold_in_axes
from ._random.mask import mask_block, sample_mask
from ._rates import linear_rates, rate_of_each
from ._recurrent.functions import recurrent_dropout, recurrent_masks, zoneout
from ._recurrent.spec import RecurrentMasks
from ._scaling import scale_rates
from ._summary import Site, Summary
from ._tools.explain import explain, plot_mask
from ._tools.monte_carlo import MonteCarlo, monte_carlo

__version__ = "0.1.0"

__all__ = [
    "DropInReport",
    "MonteCarlo",
    "RecurrentMasks",
    "Site",
    "Summary",
    "alpha_dropout",
    "apply_mask",
    "condition_dropout",
    "cutout",
    "drop_block",
    "drop_connect",
    "drop_path",
    "dropout",
    "embedding_dropout",
    "embedding_noise",
    "explain",
    "fast_key",
    "feature_alpha_dropout",
    "feature_dropout",
    "fold_in_axes",
    "gaussian_dropout",
    "head_dropout",
    "linear_rates",
    "mask_block",
    "modality_dropout",
    "monte_carlo",
    "patch_dropout",
    "patch_mask",
    "plot_mask",
    "rate_of_each",
    "recurrent_dropout",
    "recurrent_masks",
    "residual_drop_path",
    "restore_patches",
    "sample_dropout",
    "sample_mask",
    "scale_rates",
    "span_mask",
    "spatial_dropout",
    "spatial_dropout_1d",
    "spatial_dropout_2d",
    "spatial_dropout_3d",
    "spec_augment",
    "timestep_dropout",
    "token_dropout",
    "zoneout",
]
