"""Calls every public function and module with awkward arguments, and counts what happens.

A call that is valid has one or two of its arguments replaced. It may then work, or be refused by
this package in one short line that names the argument. All else is a fault:

    python -m tests.fuzz --inputs 40000 --seed 0

prints how many there are of each kind, and the faults in groups, each with an example. Programs
are traced and not compiled (`jax.eval_shape`), so that a call takes about a millisecond.
"""

import argparse
import collections
import contextlib
import dataclasses
import decimal
import fractions
import functools
import inspect
import pathlib
import re
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx

import flax_spatialdrop as fs
import flax_spatialdrop.linen
import flax_spatialdrop.nnx

PACKAGE = str(pathlib.Path(fs.__file__).parent)
MOST_CHARACTERS = 400
X = np.ones((2, 4, 6), np.float32)
IMAGE = np.ones((2, 5, 5, 3), np.float32)
IDS = np.ones((2, 4), np.int32)
HEADS = np.ones((2, 4, 3, 2), np.float32)
TRACED = object()  # stands for an argument that is traced
KEY, KEYS, RBG = (
    jax.random.key(0),
    jax.random.split(jax.random.key(0), 3),
    jax.random.key(0, impl="rbg"),
)
LEGACY = jax.random.PRNGKey(0)
SCALARS = jnp.float32(0.5), jnp.int32(1), jnp.array(True)


def key() -> jax.Array:
    return jax.random.clone(KEY)


AWKWARD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "0": lambda: 0,
    "1": lambda: 1,
    "-1": lambda: -1,
    "7": lambda: 7,
    "10**400": lambda: 10**400,
    "-(2**70)": lambda: -(2**70),
    "0.5": lambda: 0.5,
    "-0.3": lambda: -0.3,
    "1.5": lambda: 1.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "1j": lambda: 1j,
    "Fraction": lambda: fractions.Fraction(1, 3),
    "Decimal": lambda: decimal.Decimal("0.5"),
    "''": lambda: "",
    "'False'": lambda: "False",
    "long string": lambda: "x\n" * 400,
    "bytes": lambda: b"row",
    "()": lambda: (),
    "[]": lambda: [],
    "(1,)": lambda: (1,),
    "(None, 1, 1)": lambda: (None, 1, 1),
    "(1, 'a')": lambda: (1, "a"),
    "(-1, 0.5)": lambda: (-1, 0.5),
    "nested": lambda: ((1, 2), [3, (4,)]),
    "long list": lambda: list(range(1000)),
    "range": lambda: range(3),
    "{}": lambda: {},
    "{'a': 1}": lambda: {"a": 1},
    "set": lambda: {1},
    "object": object,
    "function": lambda: lambda x: x,
    "class": lambda: dict,
    "schedule": lambda: functools.partial(float, 1),
    "np.bool_": lambda: np.True_,
    "np.int8": lambda: np.int8(3),
    "np.uint8": lambda: np.uint8(200),
    "np.int64": lambda: np.int64(2),
    "np.float16": lambda: np.float16(0.5),
    "np.longdouble": lambda: np.longdouble(0.5),
    "masked": lambda: np.ma.masked,
    "masked array": lambda: np.ma.masked_array(np.ones(3), [0, 1, 0]),
    "structured": lambda: np.zeros(3, [("a", int)]),
    "object array": lambda: np.array([None, 1]),
    "string array": lambda: np.array(["a", "b"]),
    "datetime": lambda: np.array(["2020-01-01"], "datetime64[D]"),
    "key": key,
    "keys": lambda: KEYS,
    "legacy key": lambda: LEGACY,
    "rbg key": lambda: RBG,
    "legacy rbg key": lambda: np.zeros(4, np.uint32),
    "uint32": lambda: np.zeros(3, np.uint32),
    "Rngs": lambda: nnx.Rngs(0),
    "Rngs of another": lambda: nnx.Rngs(other=0),
    "RngStream": lambda: nnx.Rngs(dropout=0)["dropout"],
    "model": lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)),
    "linen model": lambda: nn.Dense(3),
    "Variable": lambda: nnx.Param(jnp.ones((2, 4, 6))),
    "ShapeDtypeStruct": lambda: jax.ShapeDtypeStruct((2, 4, 6), np.float32),
    "traced": lambda: TRACED,
    "scalar": lambda: SCALARS[0],
    "int scalar": lambda: SCALARS[1],
    "bool scalar": lambda: SCALARS[2],
}
for _dtype in [
    "bool",
    "int8",
    "int32",
    "uint8",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "float8_e4m3fn",
    "float8_e8m0fnu",
    "longdouble",
]:
    _type = getattr(ml_dtypes, _dtype, _dtype)
    AWKWARD[f"array of {_dtype}"] = functools.partial(np.ones, (2, 4, 6), _type)
for _rank in range(7):
    AWKWARD[f"array of rank {_rank}"] = functools.partial(np.ones, (2,) * _rank, np.float32)
for _shape in ((0,), (2, 0, 6), (1, 1, 1), (2, 1, 6), (2, 4)):
    AWKWARD[f"array of shape {_shape}"] = functools.partial(np.ones, _shape, np.float32)
    AWKWARD[f"mask of shape {_shape}"] = functools.partial(np.ones, _shape, bool)


@dataclasses.dataclass(frozen=True)
class Target:
    """Something public, how to call it, and valid arguments for it, made anew for each call."""

    name: str
    run: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]


def positional(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function called as users call it: leading arguments by position."""

    def run(**arguments: Any) -> Any:
        kinds = inspect.signature(function).parameters
        first = [n for n, p in kinds.items() if p.kind != p.KEYWORD_ONLY and n in arguments]
        rest = {n: value for n, value in arguments.items() if n not in first}
        return function(*(arguments[n] for n in first), **rest)

    return run


def branch(x: Any) -> Any:
    return x * np.float32(2)


LAYOUT = {"data_format": "channels_last", "batch_dims": 1}
SHARED = {"noise_shape": None, "broadcast_dims": (1,)}
SIZES = {"hidden": 3}
ATTENTION = {
    "bias": None,
    "mask": None,
    "broadcast_dropout": False,
    "dropout_rate": 0.5,
    "deterministic": False,
    "dtype": None,
    "precision": None,
    "noise_shape": None,
    "broadcast_dims": (0,),
    "span": 1,
}
BLOCKS = {"is_causal": True, "query_block_size": 2, "key_block_size": 2}

# The options and the input of each regularizer, by the name of its function.
REGULARIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "alpha_dropout": (X, SHARED),
    "cutout": (IMAGE, {"block_size": 2, "num_blocks": 1, "fill": 0.0} | LAYOUT),
    "drop_block": (
        IMAGE,
        {"block_size": 2, "per_channel": True, "normalize": "expected"} | LAYOUT,
    ),
    "drop_path": (X, {"mode": "row", "batch_axis": 0, "scale": True}),
    "dropout": (X, SHARED),
    "embedding_dropout": (X[0], {"per_sample": False}),
    "feature_alpha_dropout": (X, LAYOUT),
    "feature_dropout": (X, LAYOUT),
    "gaussian_dropout": (X, SHARED),
    "head_dropout": (HEADS, {"head_axis": -2, "batch_dims": 1}),
    "patch_dropout": (X, {"num_prefix_tokens": 1, "batch_dims": 1}),
    "sample_dropout": (X, LAYOUT),
    "spatial_dropout": (X, LAYOUT),
    "spatial_dropout_1d": (X, LAYOUT),
    "spatial_dropout_2d": (IMAGE, LAYOUT),
    "spatial_dropout_3d": (np.ones((2, 2, 2, 2, 3), np.float32), LAYOUT),
    "timestep_dropout": (X, LAYOUT),
    "token_dropout": (IDS, {"mask_id": 3, "special_ids": (0, 1), "vocab_size": 9}),
}
RECORDS = {"MonteCarlo", "RecurrentMasks", "Site", "Summary"}  # only made by the package


def functions() -> list[Target]:
    first_names = {"token_dropout": "ids", "embedding_dropout": "table"}
    found = {
        name: lambda name=name, x=x, options=options: {
            "key": key(),
            first_names.get(name, "x"): x,
            "rate": 0.5,
            **options,
        }
        for name, (x, options) in REGULARIZERS.items()
    }
    mask = np.ones((2, 1, 6), bool)
    found |= {
        "apply_mask": lambda: {"x": X, "mask": mask, "rate": 0.5},
        "drop_connect": lambda: {"key": key(), "weights": {"w": X}, "rate": 0.5, "paths": "w"},
        "explain": lambda: {"shape": (2, 4, 6), "noise_shape": (None, 1, None)},
        "fast_key": lambda: {"key": key()},
        "linear_rates": lambda: {"max_rate": 0.5, "depth": 3, "convention": "huang"},
        "mask_block": lambda: {
            "key": key(),
            "rate": 0.5,
            "noise_shape": (2, 4),
            "start": (0, 1),
            "sizes": (1, 2),
        },
        "monte_carlo": lambda: {
            "apply": lambda key: jax.random.normal(key, (3,)),
            "key": key(),
            "num_samples": 3,
            "batch_size": None,
            "outputs": "values",
        },
        "plot_mask": lambda: {
            "mask_or_output": mask,
            "ax": None,
            "shape": (2, 4, 6),
            "axis_names": ("a", "b", "c"),
            "title": None,
        },
        "recurrent_dropout": lambda: {"key": key(), "x": X, "rate": 0.5},
        "recurrent_masks": lambda: {
            "key": key(),
            "rate": 0.5,
            "batch": 2,
            "features": 3,
            "gates": 4,
        },
        "residual_drop_path": lambda: {
            "key": key(),
            "x": X,
            "branch": branch,
            "rate": 0.5,
            "mode": "batch",
            "batch_axis": 0,
            "scale": True,
        },
        "sample_mask": lambda: {"key": key(), "rate": 0.5, "noise_shape": (2, 1)},
        "zoneout": lambda: {
            "key": key(),
            "x": X,
            "rate": 0.5,
            "previous": X,
            "deterministic": False,
        },
    }
    return [Target(n, positional(getattr(fs, n)), arguments) for n, arguments in found.items()]


def camel(name: str) -> str:
    parts = re.sub(r"_(\d)d$", r"_\1D", name).split("_")
    return "".join(part[0].upper() + part[1:] for part in parts)


AT_CALL = "__call__."  # before the names of what a module is called with


def of_linen(cls: Any) -> Callable[..., Any]:
    """Makes a Linen module and calls it."""

    def run(**arguments: Any) -> Any:
        made, called = made_and_called(arguments)
        inputs = called.pop("inputs")
        rngs = {"params": key(), "dropout": key()}
        return cls(**made).init_with_output(rngs, inputs, **called)[0]

    return run


def of_nnx(cls: Any) -> Callable[..., Any]:
    """Makes an NNX module and calls it."""

    def run(**arguments: Any) -> Any:
        made, called = made_and_called(arguments)
        return cls(**made)(called.pop("inputs"), **called)

    return run


def made_and_called(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    called = {n.removeprefix(AT_CALL): v for n, v in arguments.items() if n.startswith(AT_CALL)}
    return {n: v for n, v in arguments.items() if not n.startswith(AT_CALL)}, called


def modules() -> list[Target]:
    found = []
    for face, adapt in ((fs.linen, of_linen), (fs.nnx, of_nnx)):
        is_linen = face is fs.linen
        prefix = "linen." if is_linen else "nnx."
        rng = ("rng", key) if is_linen else ("rngs", lambda: nnx.Rngs(dropout=0))

        def add(
            name: str,
            made: Callable[[], dict[str, Any]],
            inputs: Any,
            more: dict[str, Any],
            face: Any = face,
            adapt: Any = adapt,
            prefix: str = prefix,
            rng: Any = rng,
            into: Any = found,
        ) -> None:
            called = {"inputs": inputs, "deterministic": False} | more

            def whole() -> dict[str, Any]:
                values = called | {rng[0]: rng[1]()}
                return made() | {AT_CALL + name: value for name, value in values.items()}

            into.append(Target(prefix + name, adapt(getattr(face, name)), whole))

        for name, (x, options) in REGULARIZERS.items():
            extra = {} if name == "patch_dropout" else {"mask": None}
            made = {"rate": 0.5, "rng_collection": "dropout"} | options
            add(camel(name), lambda made=made: dict(made), x, {"rate": None} | extra)
        if is_linen:
            recurrent = {"features": 3}

            def cell() -> Any:
                return nn.GRUCell(3)

            def layer() -> Any:
                return fs.linen.GRU(3)

        else:
            recurrent = {"in_features": 6, "hidden_features": 3}

            def cell() -> Any:
                return nnx.GRUCell(6, 3, rngs=nnx.Rngs(0))

            def layer() -> Any:
                return fs.nnx.GRU(6, 3, rngs=nnx.Rngs(0))

        options = {
            "dropout": 0.5,
            "recurrent_dropout": 0.5,
            "variant": "variational",
            "per_gate": False,
            "time_major": False,
            "return_carry": False,
            "reverse": False,
            "keep_order": False,
        }
        call = {"seq_lengths": np.array([4, 2]), "initial_carry": None, "masks": None}
        for name in ("GRU", "LSTM", "SimpleRNN"):
            made = recurrent | options
            rngs = dict if is_linen else (lambda: {"rngs": nnx.Rngs(0)})
            add(name, lambda made=made, rngs=rngs: made | rngs(), X, call)
        add("RNN", lambda cell=cell, o=options: {"cell": cell()} | o, X, call)
        add(
            "Bidirectional",
            lambda layer=layer: {
                "forward_rnn": layer(),
                "backward_rnn": layer(),
                "time_major": False,
                "return_carry": False,
            },
            X,
            call,
        )
        dense = (lambda: nn.Dense(6)) if is_linen else (lambda: nnx.Linear(6, 6, rngs=nnx.Rngs(0)))
        add(
            "ResidualDropPath",
            lambda dense=dense: {"branch": dense(), "rate": 0.5, "mode": "batch", "scale": True},
            X,
            {"rate": None},
        )
        for name, more in (("dot_product_attention", {}), ("blockwise_attention", BLOCKS)):
            taken = inspect.signature(getattr(face, name)).parameters
            arguments = {n: v for n, v in (ATTENTION | more).items() if n in taken}
            found.append(
                Target(
                    prefix + name,
                    getattr(face, name),
                    lambda a=arguments: (
                        {
                            "query": HEADS,
                            "key": HEADS,
                            "value": HEADS,
                            "dropout_rng": key(),
                        }
                        | a
                    ),
                )
            )
    return found


def _drop_in_linen(model: Any, x: Any) -> Any:
    with fs.linen.drop_in():
        return model.init_with_output({"params": key(), "dropout": key()}, x)[0]


def tools() -> list[Target]:
    def flax_dropout() -> Any:
        return nn.Dropout(0.5, deterministic=False)

    return [
        Target("linen.drop_in", _drop_in_linen, lambda: {"model": flax_dropout(), "x": X}),
        Target("nnx.drop_in", fs.nnx.drop_in, lambda: {"model": nnx.Dropout(0.5)}),
        Target(
            "linen.summarize",
            lambda model, inputs, rngs: fs.linen.summarize(model, inputs, rngs=rngs),
            lambda: {"model": flax_dropout(), "inputs": X, "rngs": key()},
        ),
        Target(
            "nnx.summarize",
            lambda model, inputs: fs.nnx.summarize(model, inputs),
            lambda: {"model": nnx.Dropout(0.5, rngs=nnx.Rngs(0)), "inputs": X},
        ),
    ]


TARGETS = functions() + modules() + tools()
SLOW = ("summarize", "plot_mask")  # compiled, or drawn: given fewer inputs
ALIASES = {
    "inputs": ("x", "inputs", "ids", "table", "weights"),
    "rng": ("key", "rng", "rngs"),
    "rngs": ("key", "rngs", "dropout_rngs"),
    "dropout_rng": ("dropout_rng", "key"),
    "mask_or_output": ("mask_or_output", "plot_mask"),
    "num_keep": ("num_keep", "rate"),
    "weights": ("weights", "paths", "weight"),
    "special_ids": ("special_ids", "ids"),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call came to: its kind, what was replaced, and the error."""

    kind: str
    target: str
    replaced: tuple[tuple[str, str], ...]
    text: str = ""


def call(target: Target, replaced: dict[str, str]) -> Outcome:
    """Calls a target with the arguments replaced that are named, each by a kind of value."""
    what = tuple(replaced.items())

    def run(traced: Any) -> Any:  # makes all that holds state in the trace that uses it
        swap = {name: AWKWARD[value]() for name, value in replaced.items()}
        swap = {name: traced if value is TRACED else value for name, value in swap.items()}
        leaves = jax.tree.leaves(target.run(**(target.arguments() | swap)))
        return [leaf for leaf in leaves if isinstance(leaf, jax.Array)]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if target.name.endswith(SLOW):
                run(None)
            else:
                jax.eval_shape(run, jax.ShapeDtypeStruct((2, 4, 6), np.float32))
    except Exception as error:
        return Outcome(
            kind_of(error, replaced), target.name, what, f"{type(error).__name__}: {error}"
        )
    finally:
        with contextlib.suppress(Exception):
            if target.name == "plot_mask":
                import matplotlib.pyplot as plt

                plt.close("all")
    return Outcome("works", target.name, what)


def kind_of(error: Exception, replaced: dict[str, str]) -> str:
    """What is wrong with an error, if anything."""
    if isinstance(error, Warning):
        return "warning"
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    is_ours = raised_in.startswith(PACKAGE) and isinstance(error, ValueError | TypeError)
    if isinstance(error, flax.errors.InvalidRngError) and raised_in.startswith(PACKAGE):
        is_ours = True
    if not is_ours:
        return "foreign error"
    text = str(error).split("\n--------------------\nFor simplicity")[0]
    if "\n" in text:
        return "several lines"
    if len(text) > MOST_CHARACTERS:
        return "too long"
    plain = [name.removeprefix(AT_CALL) for name in replaced]
    names = {alias for name in plain for alias in ALIASES.get(name, (name,))}
    if not any(re.search(rf"\b{re.escape(name)}", text) for name in names):
        return "argument not named"
    return "refused well"


def fuzz(inputs: int, seed: int) -> list[Outcome]:
    """Outcomes of calls chosen at random, the same for the same seed."""
    rng = np.random.default_rng(seed)
    weights = np.array([0.1 if t.name.endswith(SLOW) else 1.0 for t in TARGETS])
    chosen = rng.choice(len(TARGETS), inputs, p=weights / weights.sum())
    kinds, outcomes = list(AWKWARD), []
    for index in chosen:
        target = TARGETS[index]
        names = list(target.arguments())
        count = min(len(names), 1 + int(rng.random() < 0.3))
        which = rng.choice(len(names), count, replace=False)
        replaced = {names[i]: kinds[rng.integers(len(kinds))] for i in which}
        outcomes.append(call(target, replaced))
    return outcomes


GOOD = ("works", "refused well")


def missing_names() -> set[str]:
    """Public names that nothing here calls."""
    known = {target.name for target in TARGETS} | RECORDS
    public = {name for name in fs.__all__ if name not in ("linen", "nnx")}
    for face in ("linen", "nnx"):
        module = getattr(fs, face)
        public |= {f"{face}.{name}" for name in module.__all__}
    return public - known


def report(outcomes: list[Outcome], groups: int) -> str:
    """Counts by kind; of each kind of fault its most frequent groups, each with an example."""
    counts = collections.Counter(outcome.kind for outcome in outcomes)
    lines = [f"{count:7d}  {kind}" for kind, count in counts.most_common()]
    for kind in counts:
        if kind in GOOD:
            continue
        found = collections.defaultdict(list)
        for outcome in outcomes:
            if outcome.kind == kind:
                place = outcome.target, outcome.replaced[0][0], outcome.text[:60]
                found[
                    place if len(outcome.replaced) == 1 else (*place[:1], "two", place[2])
                ].append(outcome)
        lines += ["", f"== {kind}: {len(found)} groups"]
        for place, members in sorted(found.items(), key=lambda item: -len(item[1]))[:groups]:
            example = members[0]
            text = re.sub(r"\s+", " ", example.text)[:200]
            replaced = ", ".join(f"{name}={value}" for name, value in example.replaced)
            lines.append(f"{len(members):5d}  {place[0]}({replaced}): {text}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", type=int, default=60)
    options = parser.parse_args()
    jax.config.update("jax_traceback_filtering", "off")
    print(report(fuzz(options.inputs, options.seed), options.groups))


if __name__ == "__main__":
    main()
