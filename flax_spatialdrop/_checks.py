"""Checks of arguments, and their messages.

A check returns its argument in the form that the code uses, or raises an error. Each message is one
sentence: the name of the argument, the rule, and the value that was given. `name` is the name that
the user knows.
"""

import itertools
import numbers
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from ._typing import Array, Rate

_LEGACY_SHAPES = {"threefry2x32": (2,), "rbg": (4,), "unsafe_rbg": (4,)}
"""The shape of a legacy key, by the implementation that is JAX's default."""

_KINDS = jnp.bool_, jnp.number, jax.dtypes.extended
_WIDE_OR_TIME = {*"gGmM"}  # NumPy's longdouble, clongdouble, timedelta64 and datetime64

_TEXT = str | bytes | bytearray | memoryview

_LONGEST = 60
"""How many characters of a value an error shows."""


def check_array(x: Any, name: str = "x") -> Array:
    """Returns x if it is an array, or the array inside of a box, such as an nnx.Variable."""
    x = unboxed(x)
    if not is_array(x):
        raise TypeError(f"{name} must be a JAX or NumPy array: got {shown(x)}")
    is_known = any(jnp.issubdtype(x.dtype, kind) for kind in _KINDS)
    if not is_known or getattr(x.dtype, "char", None) in _WIDE_OR_TIME:
        raise TypeError(
            f"{name} must have a dtype that JAX supports: got dtype {_shortened(str(x.dtype))}"
        )
    return x


def is_array(x: Any) -> TypeGuard[Array]:
    """Whether x is an array of JAX or NumPy. JAX would ignore the mask of a masked array."""
    return isinstance(x, jax.Array | np.ndarray) and not isinstance(x, np.ma.MaskedArray)


def unboxed(x: Any) -> Any:
    """Returns the value inside of a box, such as an nnx.Variable; otherwise x."""
    return x.__jax_array__() if is_box(x) else x


def is_box(x: Any) -> bool:
    """Whether x is a box with a value inside, such as an nnx.Variable."""
    return not isinstance(x, jax.Array) and hasattr(type(x), "__jax_array__")


def check_input(
    x: Any,
    name: str = "x",
    kind: Any = jnp.inexact,
    rule: str = "a floating or complex dtype, since kept values are scaled by 1 / (1 - rate)",
) -> Array:
    """Returns an array whose values can be scaled; `rule` names the dtypes that are allowed."""
    array = check_array(x, name)
    dtype = array.dtype
    if not jnp.issubdtype(dtype, kind):
        looks_like_key = jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype == jnp.uint32
        advice = "; the key comes first" if looks_like_key else ""
        raise TypeError(f"{name} must have {rule}: got dtype {dtype}{advice}")
    if dtype == jnp.float8_e8m0fnu:
        raise TypeError(
            f"{name} must have a dtype that can represent 0, the value of dropped elements: "
            f"got dtype {dtype}"
        )
    return array


def check_mask(mask: Any, name: str = "mask") -> Array:
    """Returns a bool array."""
    mask = unboxed(mask)
    is_array = isinstance(mask, jax.Array | np.ndarray | np.bool_)
    if not is_array or isinstance(mask, np.ma.MaskedArray) or mask.dtype != jnp.bool_:
        got = f"dtype {mask.dtype}" if is_array else shown(mask)
        raise TypeError(f"{name} must be a bool array, True where a value is kept: got {got}")
    checked: Array = mask
    return checked


def check_key(key: Any, name: str = "key") -> jax.Array:
    """Returns one PRNG key, typed or legacy."""
    rule = f"{name} must be a JAX PRNG key, such as jax.random.key(0)"
    if key is None:
        raise ValueError(
            f"{name} must be a JAX PRNG key where anything is drawn: got {name}=None; pass one, "
            "such as jax.random.key(0)"
        )
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"{rule}: got {shown(key)}")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        batch_shape = key.shape
    elif key.dtype == jnp.uint32 and key.shape[-1:] in _LEGACY_SHAPES.values():
        default = str(jax.config.jax_default_prng_impl)  # type: ignore[attr-defined]
        if key.shape[-1:] != _LEGACY_SHAPES.get(default, key.shape[-1:]):
            raise TypeError(
                f"{name} must be a JAX PRNG key of JAX's default implementation, {default}, or "
                f"one that names its own: got an array of shape {key.shape} and dtype uint32; "
                "write jax.random.wrap_key_data(key, impl=...)"
            )
        batch_shape = key.shape[:-1]
    else:
        advice = "; the key comes first" if jnp.issubdtype(key.dtype, jnp.inexact) else ""
        raise TypeError(f"{rule}: got {shown(key)}{advice}")
    if batch_shape != ():
        raise ValueError(
            f"{name} must be one PRNG key: got keys of shape {batch_shape}; "
            "use jax.vmap to draw with each of them"
        )
    return key  # type: ignore[return-value]


def check_rate(rate: Any, name: str = "rate") -> Rate:
    """Returns a number as a float in [0, 1] and a scalar array as it is."""
    return check_scalar(rate, name, "is the probability to drop and must be")


def check_scalar(
    value: Any, name: str, rule: str = "must be", most: float = 1.0, limits: str = "in [0, 1]"
) -> float | Array:
    """Returns a number as a float from 0 to `most` and a scalar array as it is.

    Messages begin with the name and the rule, and call the numbers that are allowed `limits`.
    """
    value = value if isinstance(value, np.generic) else unboxed(value)
    if isinstance(value, np.generic) and jnp.issubdtype(value.dtype, jnp.floating):
        value = float(value)  # since Python does not count bfloat16 among the numbers
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        is_in_range = bool(0 <= value <= most)  # type: ignore[operator]
        if not is_in_range:  # before float(), which fails for very large integers
            got = f"{value}" if isinstance(value, float) else shown(value)
            raise ValueError(f"{name} {rule} {limits}: got {name}={got}")
        return float(value)
    if not isinstance(value, np.generic):
        if callable(value):
            raise TypeError(
                f"{name} must be a number or a scalar array: got {shown(value)}; pass the "
                "value of a schedule, schedule(step)"
            )
        if not is_array(value):
            raise TypeError(f"{name} {rule} a number or a scalar array: got {shown(value)}")
    if value.shape != ():
        raise ValueError(
            f"{name} must be one number or a scalar array, the same for all of x: "
            f"got an array of shape {value.shape}"
        )
    # JAX does not have NumPy's longdouble, which is wider than 8 bytes.
    is_real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
    if not is_real or value.dtype.itemsize > 8:
        raise TypeError(f"{name} must be a real number: got an array of dtype {value.dtype}")
    checked: Array = value
    return checked


def check_known_rate(rate: Any, reason: str) -> float:
    """Returns a rate as a float; `reason` says what it determines, for the message."""
    checked = check_rate(rate)
    if not isinstance(checked, float):
        raise TypeError(
            f"{reason} and must be a number, known when tracing: "
            f"got an array of dtype {checked.dtype}"
        )
    return checked


def check_count(value: Any, name: str) -> int | Array:
    """Returns an integer of at least 0, or an integer scalar array as it is."""
    value = unboxed(value)
    if is_whole(value):
        return check_whole(value, name, least=0)
    if not is_array(value) or not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} must be an integer or an integer scalar array: got {shown(value)}")
    if value.shape != ():
        raise ValueError(
            f"{name} must be one integer or a scalar array: got an array of shape {value.shape}"
        )
    return value


def is_static(rate: Rate, value: float) -> bool:
    """Whether a checked rate is exactly `value`, known when tracing."""
    return isinstance(rate, float) and rate == value


def needs_no_key(rate: Rate) -> bool:
    """Whether a checked rate is exactly 0 or 1, known when tracing, so that nothing is drawn."""
    return is_static(rate, 0.0) or is_static(rate, 1.0)


def check_switch(value: Any, name: str, advice: str | None = None) -> bool:
    """Returns True or False; `advice` tells how to avoid a traced value."""
    if isinstance(value, jax.core.Tracer):
        advice = advice or f"name it in jax.jit(..., static_argnames={name!r})"
        raise TypeError(
            f"{name} must be a Python bool, known when tracing: got a traced value; {advice}"
        )
    is_scalar_array = isinstance(value, jax.Array | np.ndarray) and value.shape == ()
    if not (isinstance(value, bool | np.bool_) or (is_scalar_array and value.dtype == jnp.bool_)):
        raise TypeError(f"{name} must be True or False: got {shown(value)}")
    return bool(value)


def check_choice(value: Any, name: str, choices: Sequence[str | None]) -> Any:
    """Returns one of the choices."""
    if not isinstance(value, str | None) or value not in choices:
        *others, last = map(repr, choices)
        kind = ValueError if isinstance(value, str | None) else TypeError
        raise kind(f"{name} must be {', '.join(others)} or {last}: got {name}={shown(value)}")
    return value


def check_name(value: Any, name: str) -> str:
    """Returns a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string: got {shown(value)}")
    return value


def check_axis_names(names: Any, name: str) -> tuple[str, ...]:
    """Returns the names of mapped axes, given as one name or as a sequence of different names."""
    found = (names,) if isinstance(names, str) else names
    if not is_sequence(found) or not all(isinstance(axis, str) for axis in found):
        raise TypeError(
            f"{name} must be the name of a mapped axis, or a tuple of names: got {shown(names)}"
        )
    if len({*found}) < len(found):
        raise ValueError(f"{name} must name each axis once: got {shown(names)}")
    return tuple(found)


def check_callable(value: Any, name: str, what: str) -> Callable[..., Any]:
    """Returns a callable value; `what` describes it in the message, as in "a function of a key"."""
    if not callable(unboxed(value)):
        raise TypeError(f"{name} must be {what}: got {shown(value)}")
    checked: Callable[..., Any] = value
    return checked


def check_whole(number: Any, name: str, least: int | None = None, unit: str = "") -> int:
    """Returns an integer as an int; it must be at least `least`, a number of `unit`s."""
    if not is_whole(number):
        raise TypeError(f"{name} must be an integer: got {shown(number)}")
    whole = operator.index(number)
    if not -(2**63) <= whole < 2**63:
        raise ValueError(f"{name} must be an integer of at most 64 bits: got {shown(whole)}")
    if least is not None and whole < least:
        raise ValueError(f"{name} must be at least {least}{unit and ' ' + unit}: got {whole}")
    return whole


def is_whole(value: Any) -> bool:
    """Whether a value is an integer and not a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_symbolic(size: Any) -> bool:
    """Whether a size is symbolic: a size of jax.export, known only when the program is called."""
    return jax.export.is_symbolic_dim(size)


def is_at_most(size: Any, limit: Any) -> bool:
    """Whether size <= limit holds for all values of symbolic sizes."""
    return bool(jax.core.min_dim(size, limit) == size)


def check_sequence(value: Any, name: str, what: str, advice: str = "") -> tuple[Any, ...]:
    """Returns a tuple, for a sequence or a NumPy array with one axis."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not is_sequence(value):
        raise TypeError(f"{name} must be {what}: got {shown(value)}{advice and '; ' + advice}")
    return tuple(value)


def is_sequence(value: Any) -> bool:
    """Whether a value is a sequence and not text."""
    return isinstance(value, Sequence) and not isinstance(value, _TEXT)


def check_axes(
    axes: Iterable[Any], name: str, role: str, shape: tuple[int, ...], array: str = "x"
) -> set[int]:
    """Returns axes of an array, counted from 0; `role` says what the axes do, for messages."""
    axes = tuple(axes)
    for axis in axes:
        if not is_whole(axis):
            raise TypeError(
                f"{name} must hold integers, the axes of {array} that {role}: "
                f"got {shown(axis)} in {name}={shown(axes)}"
            )
        if not -len(shape) <= axis < len(shape):
            known = f"from {-len(shape)} to {len(shape) - 1}" if shape else "which has none"
            raise ValueError(
                f"{name} must name axes of {array}, {known}: got {shown(axis)} in "
                f"{name}={shown(axes)} for {array}.shape={shape}"
            )
    return {operator.index(axis) % len(shape) for axis in axes}


def check_batch_dims(batch_dims: Any) -> int:
    """Returns the number of leading batch axes."""
    if not is_whole(batch_dims):
        raise TypeError(
            "batch_dims must be an integer, how many leading axes are batch axes: "
            f"got {shown(batch_dims)}"
        )
    return check_whole(batch_dims, "batch_dims", least=0)


def plural(count: int, noun: str) -> str:
    plurals = {"batch axis": "batch axes", "entry": "entries"}
    return f"{count} {noun if count == 1 else plurals[noun]}"


def shown(value: Any, depth: int = 0) -> str:
    """Describes a value on one short line: a literal as it is written, otherwise its type."""
    kind = type(value).__name__
    if isinstance(value, int) and abs(value) >= 10**_LONGEST:
        return f"an integer of {int(value.bit_length() * 0.30103) + 1} digits"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return _shortened(repr(value))
    if isinstance(value, range):
        return _shortened(repr(value))
    if isinstance(value, tuple | list | set | frozenset):
        brackets = {tuple: ("(", ")"), list: ("[", "]"), set: ("{", "}")}
        left, right = brackets.get(type(value), (f"{kind}(", ")"))
        is_short = len(value) <= 8 and depth < 3
        inside = ", ".join(shown(entry, depth + 1) for entry in value) if is_short else ""
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        text = f"{left}{inside}{comma}{right}"
        return text if is_short and len(text) <= _LONGEST else f"a {kind} of {len(value)} entries"
    if is_symbolic(value):
        return _shortened(str(value))
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype"):
        is_array = isinstance(value, jax.Array | np.ndarray)
        what = "an array" if is_array else f"a value of type {kind}"
        what = "a masked array" if isinstance(value, np.ma.MaskedArray) else what
        return f"{what} of shape {value.shape} and dtype {value.dtype}"
    name = getattr(value, "__name__", None)
    if callable(value) and isinstance(name, str):
        return f"the function {name}"
    if isinstance(value, numbers.Number):
        return _shortened(f"{value} of type {kind}")
    return f"a value of type {kind}"


def listed(names: Sequence[str]) -> str:
    """The names that fit on a short line, and the number of other names."""
    lengths = itertools.accumulate(len(shown(name)) + 2 for name in names)
    count = max(1, sum(length <= 200 for length in lengths))
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(shown, names[:count])) + more


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
