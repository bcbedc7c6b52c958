"""The smallest layers of five training stacks, written anew from their public design.

Each module but `layers`, which they share, is one stack, and takes its dropout as an argument.
`docs/guides/stacks.md` explains what to replace in a stack. The tests and `experiments.benchmarks`
run these modules. Each has

    THEIRS, OURS           the dropout of the stack with Flax's layer, and with this library
    example(dropout)       an Example with THEIRS, OURS or None (no dropout)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Example(NamedTuple):
    """A loss to differentiate, and its arguments at a modest size: loss(params, key, batch)."""

    loss: Callable[[Any, jax.Array, Any], jax.Array]
    params: Any
    batch: Any
