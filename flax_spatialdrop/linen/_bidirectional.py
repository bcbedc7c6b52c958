"""A sequence read in both directions."""

from typing import Any

import jax

from .._checks import check_key
from .._recurrent.spec import RecurrentMasks, pick_switch
from .._recurrent_directions import Merge, check_directions, check_merge, check_pair
from .._typing import Array, Key, Rate
from ._call import Stochastic
from ._recurrent_layer import RecurrentLayer


class Bidirectional(Stochastic):
    """Two recurrent layers over a sequence, one of them from its end.

        y_t = merge_fn(forward(x)_t, backward(x reversed, in x's order)_t)

    In place of `nn.Bidirectional`, with its parameters, for layers of this package. Each direction
    draws masks of its own. The layers' own time_major, return_carry, reverse and keep_order are
    overruled.

    Attributes:
      forward_rnn: `LSTM`, `GRU`, `SimpleRNN` or `RNN`.
      backward_rnn: another; None makes one like `forward_rnn`, with parameters of its own.
      merge_fn: a function of the outputs of both, or as Keras's merge_mode: "concat" (default, side
        by side along the features), "sum", "mul", "ave", or None for a pair.
      time_major: whether inputs and outputs have time first.
      return_carry: whether both final carries are returned too.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import GRU, Bidirectional
      >>> layer = Bidirectional(GRU(16, recurrent_dropout=0.2))
      >>> x = jnp.ones((4, 10, 8))
      >>> variables = layer.init(jax.random.key(0), x, deterministic=True)
      >>> rngs = {"dropout": jax.random.key(1)}
      >>> layer.apply(variables, x, deterministic=False, rngs=rngs).shape
      (4, 10, 32)

    Reference: Schuster & Paliwal, Bidirectional Recurrent Neural Networks, 1997,
    https://doi.org/10.1109/78.650093
    """

    forward_rnn: RecurrentLayer
    backward_rnn: RecurrentLayer | None = None
    merge_fn: Merge = "concat"
    time_major: bool = False
    return_carry: bool = False

    def __post_init__(self):
        if self.backward_rnn is None and isinstance(self.forward_rnn, RecurrentLayer):
            # Deep, since the cell of `RNN` is a module too.
            self.backward_rnn = self.forward_rnn.clone(_deep_clone=True, name=None)
        super().__post_init__()

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: tuple[Any, Any] | None = None,
        init_key: Key = None,
        seq_lengths: Array | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        deterministic: bool | None = None,
        rng: Key = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
        masks: tuple[RecurrentMasks, RecurrentMasks] | None = None,
    ) -> Any:
        """Runs over a sequence in both directions.

        Args:
          inputs: [*batch, time, features], or with time first; floating.
          initial_carry: a carry for each direction.
          init_key: for the first carries; split.
          seq_lengths: [*batch] whole numbers: what comes after is padding.
          return_carry, time_major: in place of the attributes.
          deterministic, dropout, recurrent_dropout: as of the layers.
          rng: the key to draw with, in place of the stream's; split.
          masks: for each direction, as `sample_masks` returns them.

        Returns:
          The outputs, or a pair of carries and the outputs.

        Raises:
          ValueError: if both directions are one layer; else as the layers.
          TypeError: for other layers; else as the layers.
        """
        options: dict[str, Any] = {
            "seq_lengths": seq_lengths,
            "time_major": pick_switch(self, "time_major", time_major),
            "deterministic": deterministic,
            "dropout": dropout,
            "recurrent_dropout": recurrent_dropout,
            "return_carry": True,
        }
        rngs, init_keys = _for_each(rng, "rng"), _for_each(init_key, "init_key")
        carries, given = check_pair(initial_carry, "initial_carry"), check_pair(masks, "masks")
        merge = check_merge(self.merge_fn)
        return_carry = pick_switch(self, "return_carry", return_carry)
        found = [
            layer(
                inputs,
                initial_carry=carries[i],
                init_key=init_keys[i],
                rng=rngs[i],
                masks=given[i],
                reverse=bool(i),
                keep_order=True,
                **options,
            )
            for i, layer in enumerate(self._layers())
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
        rng: Key = None,
        dropout: Rate | None = None,
        recurrent_dropout: Rate | None = None,
    ) -> tuple[RecurrentMasks, RecurrentMasks]:
        """Draws the masks that a call with the same arguments would have dropped with.

        Args:
          inputs: an array, of which only shape and dtype matter.
          time_major, deterministic, rng, dropout, recurrent_dropout: as at the call.

        Returns:
          RecurrentMasks for each direction, to be used as `masks=`.

        Raises:
          ValueError, TypeError, flax.errors.InvalidRngError: as the call.
        """
        layers = self._layers()
        first, second = (
            layer.sample_masks(
                inputs,
                time_major=pick_switch(self, "time_major", time_major),
                deterministic=deterministic,
                rng=key,
                dropout=dropout,
                recurrent_dropout=recurrent_dropout,
            )
            for layer, key in zip(layers, _for_each(rng, "rng"), strict=True)
        )
        return first, second

    def _layers(self) -> tuple[RecurrentLayer, RecurrentLayer]:
        check_directions(self.forward_rnn, self.backward_rnn, RecurrentLayer)
        return self.forward_rnn, self.backward_rnn  # type: ignore[return-value]


def _for_each(key: Key, name: str) -> Any:
    return (None, None) if key is None else jax.random.split(check_key(key, name))
