"""A sequence read in both directions."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from .._checks import check_key
from .._recurrent.spec import RecurrentMasks, pick_switch
from .._recurrent_directions import Merge, check_directions, check_merge, check_pair
from .._typing import Array, Rate
from ._call import check_options
from ._recurrent_layer import RecurrentLayer, another


class Bidirectional(nnx.Module):
    """Two recurrent layers over a sequence, one of them from its end.

        y_t = merge_fn(forward(x)_t, backward(x reversed, in x's order)_t)

    In place of `nnx.Bidirectional`, with its parameters, for layers of this package. Each direction
    draws masks of its own. The layers' own time_major, return_carry, reverse and keep_order are
    overruled.

    Args:
      forward_rnn: `LSTM`, `GRU`, `SimpleRNN` or `RNN`.
      backward_rnn: another; None makes one like `forward_rnn` (not of `RNN`), with parameters of
        its own, drawn from the same `rngs`.
      merge_fn: a function of the outputs of both, or as Keras's merge_mode: "concat" (default, side
        by side along the features), "sum", "mul", "ave", or None for a pair.
      time_major: whether inputs and outputs have time first.
      return_carry: whether both final carries are returned too.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_spatialdrop.nnx import GRU, Bidirectional
      >>> layer = Bidirectional(GRU(8, 16, recurrent_dropout=0.2, rngs=nnx.Rngs(0)))
      >>> layer(jnp.ones((4, 10, 8))).shape
      (4, 10, 32)

    Reference: Schuster & Paliwal, Bidirectional Recurrent Neural Networks, 1997,
    https://doi.org/10.1109/78.650093
    """

    def __init__(
        self,
        forward_rnn: RecurrentLayer,
        backward_rnn: RecurrentLayer | None = None,
        *,
        merge_fn: Merge = "concat",
        time_major: bool = False,
        return_carry: bool = False,
    ):
        if backward_rnn is None and isinstance(forward_rnn, RecurrentLayer):
            backward_rnn = another(forward_rnn)
        check_directions(forward_rnn, backward_rnn, RecurrentLayer)
        check_merge(merge_fn)
        self.forward_rnn = forward_rnn
        self.backward_rnn = backward_rnn
        self.merge_fn = merge_fn
        self.time_major = time_major
        self.return_carry = return_carry
        check_options(self)

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[Any, Any] | None = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
        masks: tuple[RecurrentMasks, RecurrentMasks] | None = None,
    ) -> Any:
        """Runs over a sequence in both directions.

        Args:
          inputs: [*batch, time, features], or with time first; floating.
          initial_carry: a carry for each direction.
          seq_lengths: [*batch] whole numbers: what comes after is padding.
          return_carry, time_major: in place of the attributes.
          deterministic, dropout, recurrent_dropout: as of the layers.
          rngs: nnx.Rngs, a stream of it, or a key, which is split, in place of the layers' streams.
          masks: for each direction, as `sample_masks` returns them.

        Returns:
          The outputs, or a pair of carries and the outputs.

        Raises:
          ValueError, TypeError: as the layers.
        """
        options: dict[str, Any] = {
            "seq_lengths": seq_lengths,
            "time_major": pick_switch(self, "time_major", time_major),
            "deterministic": deterministic,
            "dropout": dropout,
            "recurrent_dropout": recurrent_dropout,
            "return_carry": True,
        }
        keys = _for_each(rngs)
        carries, given = check_pair(initial_carry, "initial_carry"), check_pair(masks, "masks")
        merge = check_merge(self.merge_fn)
        return_carry = pick_switch(self, "return_carry", return_carry)
        found = [
            layer(
                inputs,
                initial_carry=carries[i],
                rngs=keys[i],
                masks=given[i],
                reverse=bool(i),
                keep_order=True,
                **options,
            )
            for i, layer in enumerate((self.forward_rnn, self.backward_rnn))
        ]
        (first, forward), (second, backward) = found
        outputs = merge(forward, backward)
        return ((first, second), outputs) if return_carry else outputs

    def sample_masks(
        self,
        inputs: Array,
        *,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
    ) -> tuple[RecurrentMasks, RecurrentMasks]:
        """Draws the masks that a call with the same arguments would have dropped with.

        Args:
          inputs: an array, of which only shape and dtype matter.
          time_major, rngs, deterministic, dropout, recurrent_dropout: as at the call.

        Returns:
          RecurrentMasks for each direction, to be used as `masks=`.

        Raises:
          ValueError, TypeError: as the call.
        """
        layers = self.forward_rnn, self.backward_rnn
        first, second = (
            layer.sample_masks(
                inputs,
                time_major=pick_switch(self, "time_major", time_major),
                deterministic=deterministic,
                rngs=key,
                dropout=dropout,
                recurrent_dropout=recurrent_dropout,
            )
            for layer, key in zip(layers, _for_each(rngs), strict=True)
        )
        return first, second


def _for_each(rngs: Any) -> Any:
    """What each direction draws from: a stream gives each a key of its own, a key must be split."""
    is_key = isinstance(rngs, jax.Array | np.ndarray)
    return jax.random.split(check_key(rngs, "rngs")) if is_key else (rngs, rngs)
