"""The modules of condition and modality dropout."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from .._docs import completed_by
from .._host import draw_for_inputs, drop_inputs
from .._ops.inputs import (
    Masks,
    Rates,
    check_rates,
    condition_dropout,
    condition_inputs,
    modality_dropout,
    modality_inputs,
)
from .._typing import AxisNames, Key
from ._base import Regularizer, Stochastic, call_of


class ConditionDropout(Stochastic, of=condition_dropout):
    """The module of `flax_spatialdrop.condition_dropout`.

    Attributes:
      rate: probability to drop, in [0, 1]: a number or a scalar array, or if joint is False a dict
        of them by name; None if each call gives one.
      null: an id, an array, or a structure of ids like that of the condition. A call may give
        another, such as a learned parameter.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import ConditionDropout
      >>> layer, labels = ConditionDropout(0.1, null=10), jnp.array([3, 1, 4])
      >>> y = layer.apply({}, labels, deterministic=False, rng=jax.random.key(0))
      >>> layer.apply({}, labels, deterministic=True, mask=jnp.zeros(3, bool))  # forced
      Array([10, 10, 10], dtype=int32)
    """

    rate: Rates | None
    null: Any = None
    joint: bool = True
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None

    _checks: ClassVar[Mapping[str, Any]] = {"rate": check_rates}

    @nn.compact
    @completed_by(drop_inputs, Regularizer.__call__)
    def __call__(
        self,
        inputs: Any,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        null: Any = None,
        rate: Rates | None = None,
        mask: Masks | None = None,
    ) -> Any:
        """Replaces the conditions of dropped samples.

        Args:
          inputs: the condition.
          null: used in place of the attribute.

        Returns:
          The condition, with the null condition in dropped samples.
        """
        condition = condition_inputs(inputs, self.joint, self.batch_dims)
        nulls = condition.check_null(self.null if null is None else null)
        call, rate = call_of(self, deterministic, rng), self.rate if rate is None else rate
        return drop_inputs(call, condition, nulls, rate, mask)[0]

    @completed_by(draw_for_inputs, Regularizer.sample_mask)
    def sample_mask(
        self,
        inputs: Any,
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        rate: Rates | None = None,
    ) -> Any:
        """Draws the mask that a call with the same arguments would draw.

        Args:
          inputs: the condition, of which only shapes matter.
          deterministic, rng: as at the call.

        Returns:
          bool of the batch shape, or a dict of them by name if joint is False; True where a sample
          keeps its condition.
        """
        condition = condition_inputs(inputs, self.joint, self.batch_dims)
        call, rate = call_of(self, deterministic, rng), self.rate if rate is None else rate
        return draw_for_inputs(call, condition, rate)


class ModalityDropout(Stochastic, of=modality_dropout):
    """The module of `flax_spatialdrop.modality_dropout`.

    Attributes:
      rate: probability to drop, in [0, 1]: a number or a scalar array, or a dict of them by name;
        None if each call gives one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax_spatialdrop.linen import ModalityDropout
      >>> layer = ModalityDropout({"audio": 0.2, "image": 0.4}, deterministic=False)
      >>> inputs = {"audio": jnp.ones((4, 8)), "image": jnp.ones((4, 6))}
      >>> dropped, presence = layer.apply({}, inputs, rngs={"dropout": jax.random.key(0)})
    """

    rate: Rates | None
    keep_one: bool = True
    batch_dims: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"
    axis_name: AxisNames | None = None

    _checks: ClassVar[Mapping[str, Any]] = {"rate": check_rates}

    @nn.compact
    @completed_by(drop_inputs, Regularizer.__call__)
    def __call__(
        self,
        inputs: Mapping[str, Any],
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        rate: Rates | None = None,
        mask: Masks | None = None,
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        """Drops modalities.

        Args:
          inputs: a dict of modalities by name.

        Returns:
          A dict of the same names, with 0 in what is dropped, and {name: bool of the batch shape},
          True where a modality is present.
        """
        modalities = modality_inputs(inputs, self.keep_one, self.batch_dims)
        call, rate = call_of(self, deterministic, rng), self.rate if rate is None else rate
        dropped, masks = drop_inputs(call, modalities, modalities.zeros(), rate, mask)
        return dropped, modalities.by_name(masks)

    @completed_by(draw_for_inputs, Regularizer.sample_mask)
    def sample_mask(
        self,
        inputs: Mapping[str, Any],
        deterministic: bool | None = None,
        rng: Key = None,
        *,
        rate: Rates | None = None,
    ) -> dict[str, jax.Array]:
        """Draws the masks that a call with the same arguments would draw.

        Args:
          inputs: a dict of modalities by name, of which only shapes matter.
          deterministic, rng: as at the call.

        Returns:
          {name: bool of the batch shape}, True where a modality is present.
        """
        modalities = modality_inputs(inputs, self.keep_one, self.batch_dims)
        call, rate = call_of(self, deterministic, rng), self.rate if rate is None else rate
        found: dict[str, jax.Array] = draw_for_inputs(call, modalities, rate)
        return found
