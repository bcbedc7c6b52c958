"""The arguments of `insert`, in Linen and NNX alike."""

from collections.abc import Callable
from typing import Any

from ._checks import shown, unboxed


def check_after(after: Any, module: type) -> Callable[[Any, Any], bool]:
    """Returns a function of a path and a module: whether the module matches.

    `module` is the base of all modules of the host.
    """
    classes = after if isinstance(after, tuple) else (after,)
    if all(isinstance(entry, type) for entry in classes):
        return lambda _, candidate: isinstance(candidate, classes)
    if isinstance(after, module) or not callable(unboxed(after)):
        raise TypeError(
            "after must be a class, a tuple of classes, or a function of a path and a module: got "
            f"{shown(after)}"
        )
    return lambda path, candidate: bool(after(path, candidate))


def check_layer(layer: Any, host: str, fits: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """Returns a function of a path: the layer for it, or None.

    `fits` says whether a value is a layer that can be inserted.
    """
    what = (
        f"a flax.{host}.Dropout, a regularizer of flax_spatialdrop.{host} that maps the output of "
        "a layer to an array of its shape"
    )
    if fits(layer):
        return lambda _: layer
    is_function = (
        callable(unboxed(layer))
        and not isinstance(layer, type)
        and not any(
            base.__module__.startswith(("flax.linen.", "flax.nnx.")) for base in type(layer).__mro__
        )
    )
    if not is_function:
        raise TypeError(f"layer must be {what}, or a function of a path: got {shown(layer)}")

    def layer_for(path: Any) -> Any:
        chosen = layer(path)
        if chosen is not None and not fits(chosen):
            raise TypeError(
                f"layer must return {what}, or None: got {shown(chosen)} for the path {shown(path)}"
            )
        return chosen

    return layer_for
