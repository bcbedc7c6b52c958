"""The report of `drop_in`, in Linen and NNX alike."""

import dataclasses
import functools
from typing import Any

from ._checks import shown

Path = tuple[Any, ...]
"""The path of a layer, as in Flax; () is the model itself."""


@dataclasses.dataclass(repr=False)
class DropInReport:
    """The layers of Flax that `drop_in` reaches and those that it leaves alone, by their paths.

    `print` shows a table. A path is a tuple of names, as in Flax, and () is the model itself.
    Layers of this package are not listed. If several models are called in one context of Linen,
    layers at the same path have one entry.

    Attributes:
      reached: the name of the class of each layer that this package runs.
      left: the reason why a layer that may drop stays as it is.
    """

    reached: dict[Path, str] = dataclasses.field(default_factory=dict)
    left: dict[Path, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        rows = [("layer", "run here")]
        rows += [(_shown_path(path), f"yes, {name}") for path, name in self.reached.items()]
        rows += [(_shown_path(path), f"no, {reason}") for path, reason in self.left.items()]
        if len(rows) == 1:
            return "No layer of Flax that drops was found, or all of them run here already."
        width = max(len(path) for path, _ in rows)
        return "\n".join(f"{path:<{width}}  {text}" for path, text in rows)

    __repr__ = __str__

    def add_reached(self, path: Path, cls: type) -> None:
        """Adds a layer that this package runs."""
        self.reached[path] = name_of(cls)
        self.left.pop(path, None)

    def add_left(self, path: Path, reason: str) -> None:
        """Adds a layer that stays as it is, unless this package runs it."""
        if path not in self.reached:
            self.left[path] = reason


def _shown_path(path: Path) -> str:
    return "/".join(map(str, path)) or "the model"


def name_of(cls: type) -> str:
    """Returns the name of a class, in full if it is a class of Flax."""
    package, host, *_ = f"{cls.__module__}..".split(".")
    return f"flax.{host}.{cls.__name__}" if package == "flax" else cls.__name__


def reason_of_call(cls: type) -> str:
    """The reason for a class derived from Flax's `Dropout` with another call."""
    return f"{name_of(cls)} has a __call__ of its own"


def reason_of_attention(attention_fn: Any) -> str | None:
    """The reason for an attention layer with another function; None if it is of this package."""
    wrapped = attention_fn
    while isinstance(wrapped, functools.partial):
        wrapped = wrapped.func
    package, *_ = str(getattr(wrapped, "__module__", "")).split(".")
    if package == __package__:
        return None
    prefix = "" if wrapped is attention_fn else "a functools.partial of "
    return f"its attention_fn is {prefix}{shown(wrapped)}"
