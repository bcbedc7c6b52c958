"""Classes for modules that `drop_in` and `insert` change in place."""

import copyreg
from collections.abc import Callable
from typing import Any

from .._compat import register_nnx_class


def changed_class(
    bases: tuple[Any, ...], make: Callable[[Any], Any], mixins: tuple[type, ...] = ()
) -> Any:
    """Returns a class with the name of its first base, `cls`, whose objects can become its own.

    Methods of the mixins come before those of the bases. It is pickled as the call make(cls), since
    its name is that of `cls`.
    """
    cls = bases[0]

    def mro(changed: type) -> list[type]:
        # An object can only change to a class whose first base is its own, so mixins are no bases.
        return [changed, _Quiet, *mixins, *type.mro(changed)[1:]]

    meta: Any = type("_Changed", (type(cls),), {"mro": mro})
    copyreg.pickle(meta, lambda _: (make, (cls,)))
    names = "__module__", "__qualname__", "__doc__"
    return meta(cls.__name__, bases, {name: getattr(cls, name) for name in names})


class _Quiet:
    """Does not run the `__init_subclass__` of a user's class, which may need arguments."""

    def __init_subclass__(cls) -> None:
        register_nnx_class(cls)
