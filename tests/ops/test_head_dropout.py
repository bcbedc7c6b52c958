"""head_dropout: the position of the axis of heads. The contracts test the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

from flax_spatialdrop import head_dropout

from ..errors import exactly

KEY = jax.random.key(8)

BAD_HEAD_AXES = [
    (-5, 1, (2, 5, 4, 3)),
    (4, 1, (2, 5, 4, 3)),
    (0, 1, (2, 5, 4, 3)),
    (-4, 1, (2, 5, 4, 3)),
    (1, 2, (2, 2, 5, 4, 3)),
]


@pytest.mark.parametrize(("head_axis", "batch_dims", "shape"), BAD_HEAD_AXES)
def test_a_head_axis_that_x_has_not_or_that_is_a_batch_axis(head_axis, batch_dims, shape):
    message = (
        "head_axis must name an axis of x that is not a batch axis: "
        f"got head_axis={head_axis} for x.shape={shape} with batch_dims={batch_dims}"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        head_dropout(None, jnp.ones(shape), 0.0, head_axis=head_axis, batch_dims=batch_dims)


@pytest.mark.parametrize("shape", [(2, 5, 12), (2, 2, 5, 4, 3)])
def test_heads_that_are_merged_or_unknown(shape):
    message = (
        "head dropout takes x with 4 axes (1 batch axis, length, heads, features): "
        f"got x.shape={shape}; an attention layer has an axis of heads only inside its attention_fn"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        head_dropout(None, jnp.ones(shape), 0.0)


@pytest.mark.parametrize("head_axis", [1.0, True, None, (1,)])
def test_a_head_axis_of_another_type(head_axis):
    with pytest.raises(
        TypeError, match=exactly(f"head_axis must be an integer: got {head_axis!r}")
    ):
        head_dropout(None, jnp.ones((2, 5, 4, 3)), 0.0, head_axis=head_axis)


@pytest.mark.parametrize("head_axis", [-2, 2])
def test_heads_of_weights_and_of_outputs_share_a_mask(head_axis):
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    y = head_dropout(clone(KEY), x, 0.5, head_axis=head_axis)
    weights = jnp.swapaxes(x, 1, 2)
    z = head_dropout(clone(KEY), weights, 0.5, head_axis=-3)
    np.testing.assert_array_equal(z, jnp.swapaxes(y, 1, 2))
