"""Calls every public function and module with awkward arguments, and counts the outcomes.

    python -m tests.fuzz --inputs 40000 --seed 0

Each input is a valid call in which one or two arguments are replaced. A good refusal is a
ValueError or TypeError that this package raises itself, with a message of one line, shorter than
400 characters, that names a replaced argument. An input depends only on the seed and its number:
`--only 123` runs input 123 and shows its traceback (pass the same `--match` too, if there was one).
"""

import argparse
import collections
import contextlib
import dataclasses
import dis
import inspect
import os
import pathlib
import random
import re
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import numpy as np

import flax_spatialdrop
import flax_spatialdrop.linen
import flax_spatialdrop.nnx

from . import fuzz_values
from .catalogue import module_name
from .fuzz_values import BY_NAME, HINTS, KEY, NETWORKS, OTHERS, POOL, RECURRENT, RESULTS

PACKAGE = str(pathlib.Path(flax_spatialdrop.__file__).parent)
LONGEST = 400
LIMIT_S, MEMORY = 5, 10 * 2**30  # seconds for an input, and bytes for the whole run
REFUSALS = ValueError | TypeError | KeyError | flax.errors.FlaxError  # two for missing streams

NOT_OF_NNX = {"split_rngs", "variable_axes", "variable_broadcast", "variable_carry"}
LOOPED = {"depth", "num_blocks"}  # the number of iterations of a Python loop
CALLABLE = {"function", "class", "dtype", "near: partial", "nnx.Rngs", "nnx module", "linen module"}
# Messages may call an argument of a module by its name in the function.
ALSO = {
    "inputs": ("x", "ids", "table", "condition"),
    "args": ("x",),
    "rng": ("key",),
    "rngs": ("key",),
    "dropout_rng": ("key",),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A public function or module: its parameters, valid values for some of them, and a call."""

    name: str
    names: tuple[str, ...]
    valid: dict[str, Callable[[], Any]]
    call: Callable[[dict[str, Any]], Any]
    is_traced: bool = True
    weight: float = 1.0


def valid_arguments(name, face, names, required, prefix=""):
    """Returns valid values by parameter; raises if a required parameter has none in the tables."""
    others = (
        valid for function, valid in OTHERS.items() if name in (function, module_name(function))
    )
    own = next(others, {}) | NETWORKS.get(face, {}).get(name, {})
    missing = [n for n in required if n not in own and n not in BY_NAME]
    if missing:
        raise LookupError(f"tests/fuzz_values.py needs a valid value for {missing} of {name}")
    found = {n: BY_NAME[n] for n in required if n not in own} | own
    return {prefix + n: value for n, value in found.items() if n in names}


def of_function(name, face, function):
    within = {"linen.drop_in": flax_dropout_within, "fs.scale_rates": dropout_within}
    reached = within.get(f"{face}.{name}", lambda function: function)(function)
    names, required = fuzz_values.parameters(reached)
    if name == "summarize":
        names, required = [*names, "args"], [*required, "args"]
    valid = valid_arguments(name, face, names, required)

    def call(given):
        positional = [given.pop("model"), given.pop("args")] if name == "summarize" else []
        return reached(*positional, **given)

    runs = name in {"summarize", "plot_mask"}
    return Target(f"{face}.{name}", tuple(names), valid, call, not runs, 0.1 if runs else 1.0)


def flax_dropout_within(context):
    """Calls Flax's own layer inside of a context."""

    def call(inputs, rate, broadcast_dims=(), rng_collection="dropout", rng=None):
        layer = nn.Dropout(rate, broadcast_dims, rng_collection=rng_collection)
        with context():
            return layer.apply({}, inputs, False, rng, rngs={"dropout": KEY})

    return call


def dropout_within(context):
    """Calls a layer of this package inside of a context."""

    def call(scale, x, rate):
        layer = flax_spatialdrop.linen.Dropout(rate, deterministic=False)
        with context(scale):
            return layer.apply({}, x, rng=KEY)

    return call


def of_module(name, face, cls, method):
    """Makes a module and calls a method; names of the method's arguments begin with a dot."""
    made, needed = fuzz_values.parameters(cls.__init__)
    called, given = fuzz_values.parameters(getattr(cls, method))
    if face == "nnx" and name in RECURRENT:
        base = flax_spatialdrop.nnx.LSTM if name != "RNN" else flax_spatialdrop.linen.RNN
        options = [n for n in fuzz_values.parameters(base.__init__)[0] if n not in NOT_OF_NNX]
        made = list(dict.fromkeys([*made, *options]))
        given = [*given, "rngs"]
    valid = valid_arguments(name, face, made, needed)
    own = valid_arguments(name, face, called, given, ".")
    valid |= {n: value for n, value in own.items() if n[1:] not in valid}
    if name in {*RECURRENT, "Bidirectional"}:
        for rate in {"dropout", "recurrent_dropout"} & set(made):
            valid[rate] = fuzz_values.constant(0.5)
    if face == "nnx" and "rngs" in made and name != "RNN":
        valid["rngs"] = POOL["nnx.Rngs"][0]
        valid.pop(".rngs", None)
    if face == "nnx" and name == "Bidirectional":
        valid[".rngs"] = fuzz_values.constant(KEY)
    if face == "nnx" and name in RECURRENT:
        valid[".rngs"] = fuzz_values.constant(KEY)
    if face == "linen":
        valid[".deterministic"] = fuzz_values.constant(False)
        valid.pop("deterministic", None)

    def call(given):
        of_call = {n[1:]: given.pop(n) for n in list(given) if n[0] == "."}
        if "deterministic" in given and of_call.get("deterministic") is False:
            del of_call["deterministic"]  # Linen accepts it only once
        layer = cls(**given)
        if face == "linen":
            keys = {"params": KEY, "dropout": KEY}
            return layer.init_with_output(keys, method=method, **of_call)[0]
        return getattr(layer, method)(**of_call)

    names = (*made, *(f".{n}" for n in called))
    title = f"{face}.{name}" + ("" if method == "__call__" else f".{method}")
    slow = name in {*RECURRENT, "Bidirectional"}
    return Target(title, names, valid, call, True, 0.6 if slow else 0.7)


def all_targets():
    """Returns all public functions and modules; raises if one has no valid arguments."""
    faces = {"fs": flax_spatialdrop, "linen": flax_spatialdrop.linen, "nnx": flax_spatialdrop.nnx}
    found = []
    for face, module in faces.items():
        public = {*getattr(module, "__all__", ()), *(n for n in dir(module) if n[0] != "_")}
        for name in sorted(public - RESULTS):
            value = getattr(module, name)
            if inspect.ismodule(value):
                continue
            if not inspect.isclass(value):
                found.append(of_function(name, face, value))
                continue
            for method in ("__call__", "sample_mask", "sample_masks"):
                if hasattr(value, method):
                    found.append(of_module(name, face, value, method))
    return found


@dataclasses.dataclass(frozen=True)
class Input:
    """A call: its target, and the values that replace arguments."""

    target: Target
    replaced: dict[str, tuple[str, Callable[[], Any]]]
    mode: str

    def run(self):
        """Calls the target; returns its output and the arguments that it had."""
        found = []

        def body(*traced):
            given = {name: value() for name, value in self.target.valid.items()}
            given |= {name: value() for name, (_, value) in self.replaced.items()}
            given |= dict(zip(arrays, traced, strict=True))
            copy = dict(given)
            found.append((self.target.call(given), copy))

        arrays = {}
        if self.mode == "traced":
            valid = {n: v() for n, v in self.target.valid.items() if n not in self.replaced}
            arrays = {n: v for n, v in valid.items() if isinstance(v, jax.Array)}
        if self.mode == "eager":
            body()
        else:
            jax.eval_shape(body, *arrays.values())
        return found[0]

    def __str__(self):
        texts = []
        for name, (kind, value) in self.replaced.items():
            with contextlib.suppress(Exception):
                shown = " ".join(repr(value()).split())
                texts.append(f"{name}={shown if len(shown) < 80 else shown[:77] + '...'} ({kind})")
        return f"{self.target.name}: {', '.join(texts)}, {self.mode}"


def make_input(targets, seed, index):
    """Returns the input with this number."""
    r = random.Random(f"{seed} {index}")
    target = r.choices(targets, [t.weight for t in targets])[0]
    count = min(r.choice((1, 1, 2)), len(target.names))
    replaced = {}
    for name in r.sample(target.names, count):
        kind, value = awkward(r, target, name)
        if name.lstrip(".") in LOOPED and kind in {"huge int", "near: times"}:
            kind, value = "int", fuzz_values.constant(7)
        replaced[name] = kind, value
    mode = r.choices(("form", "traced", "eager"), (70, 25, 5))[0] if target.is_traced else "eager"
    return Input(target, replaced, mode)


def awkward(r, target, name):
    """Returns a kind of awkward value, and a value of this kind, for an argument."""
    valid = target.valid.get(name)
    way = r.random()
    if way < 0.15:
        other = r.choice([n for n in target.valid if n != name] or [name])
        if other in target.valid:
            return f"that of {other}", target.valid[other]
    if way < 0.4 and valid is not None:
        kind, change = r.choice(HINTS)
        number = r.random()

        def changed():
            value = valid()
            try:
                return change(value, random.Random(number))
            except Exception:
                return value

        return kind, changed
    kind = r.choice(list(POOL))
    return kind, r.choice(POOL[kind])


class Hangs(BaseException):
    pass


def _give_up(*_):
    raise Hangs


def classify(given: Input) -> tuple[str, BaseException | None]:
    """Runs an input; returns the class of its outcome, and the error, if any."""
    signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S, 1)  # and again, if a callback swallows it
    try:
        output, arguments = given.run()
    except Hangs as error:
        return "foreign error", error
    except Exception as error:
        return class_of(error, given.replaced), error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return wrong_output(output, arguments, given) or "ok", None


def class_of(error, replaced):
    """Returns the class of an error, such as "refused well"."""
    frames = list(traceback.walk_tb(error.__traceback__))
    frame, _ = frames[-1]
    where = frame.f_code.co_filename
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    is_raised = frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    if isinstance(error, flax.errors.FlaxError) and not where.startswith(PACKAGE):
        return "Flax's own error"
    if isinstance(error, Warning):
        return "foreign error"
    is_refused = where.startswith(PACKAGE) and is_raised
    if not is_refused and any(is_users_function(*item) for item in replaced.items()):
        return "the user's own function failed"
    if not (is_refused and isinstance(error, REFUSALS)):
        return "foreign error"
    message = str(error)
    if "\n" in message.strip():
        return "several lines"
    if len(message) > LONGEST:
        return "too long"
    names = {n.lstrip(".") for n in replaced}
    names |= {also for name in names for also in ALSO.get(name, ())}
    if not any(re.search(rf"\b{re.escape(name)}\b", message) for name in names):
        return "argument not named"
    return "refused well"


def is_users_function(name, value):
    """Whether an argument that the package calls was replaced by something callable."""
    endings = ("after", "apply", "branch", "layer", "paths", "_init", "_fn", "_einsum")
    is_called = name.lstrip(".").endswith(endings)
    return is_called and value[0] in CALLABLE


def wrong_output(output, arguments, given):
    """Returns "wrong output" if a regularizer could not return this output, else None."""
    like = arguments.get("x", arguments.get(".inputs"))
    method = given.target.name.rsplit(".", 1)[-1]
    networks = {
        *RECURRENT,
        "Bidirectional",
        "sample_mask",
        "sample_masks",
        "drop_in",
        "insert",
        "summarize",
    }
    others = {
        "ConditionDropout",
        "ModalityDropout",
        "PatchDropout",
        "patch_dropout",
        "EmbeddingDropout",
        "embedding_dropout",
    }
    if like is None or method in networks | others:
        return None
    expected = (np.shape(like), jax.dtypes.canonicalize_dtype(like.dtype))
    if not isinstance(output, jax.Array) or (output.shape, output.dtype) != expected:
        return "wrong output"
    return None


def group_of(error):
    """Returns the kind of an error: the last line of this package, and the start of the message."""
    inside = [
        f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith(PACKAGE)
    ]
    text = re.sub(r"\d+", "N", " ".join(str(error).split()))[:70]
    return inside[-1] if inside else "outside", f"{type(error).__name__}: {text}"


@dataclasses.dataclass
class Group:
    """The inputs that ended in errors of one kind."""

    example: str
    count: int = 0
    of: Any = dataclasses.field(default_factory=collections.Counter)
    kinds: Any = dataclasses.field(default_factory=collections.Counter)


def fuzz(inputs, seed=0, only=None, match=""):
    """Returns counts of the classes, the groups of errors in each class, and the values used."""
    counts, groups = collections.Counter(), collections.defaultdict(dict)
    accepted = collections.Counter()
    with settings():
        targets = [target for target in all_targets() if re.search(match, target.name)]
        for index in range(inputs) if only is None else [only]:
            given = make_input(targets, seed, index)
            if index % 2000 == 1999:
                jax.clear_caches()
            kind, error = classify(given)
            counts[kind] += 1
            if only is not None:
                print(given, kind, sep="\n")
                if error is not None:
                    traceback.print_exception(error)
            if kind == "ok":
                accepted.update((n.lstrip("."), k) for n, (k, _) in given.replaced.items())
            elif kind != "refused well":
                key = group_of(error) if error is not None else (given.target.name, "output")
                group = groups[kind].setdefault(key, Group(f"--only {index}  {given}"))
                group.count += 1
                names = ", ".join(n.lstrip(".") for n in given.replaced)
                group.of[f"{given.target.name}({names})"] += 1
                group.kinds.update(k for k, _ in given.replaced.values())
            error = None
    return counts, groups, accepted


@contextlib.contextmanager
def settings():
    with (
        warnings.catch_warnings(),
        jax.debug_key_reuse(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        warnings.simplefilter("error")
        filtering = jax.config.jax_traceback_filtering
        jax.config.update("jax_traceback_filtering", "off")
        try:
            yield
        finally:
            jax.config.update("jax_traceback_filtering", filtering)


def report(counts, groups, most=60):
    """Returns the results as text."""
    lines = [f"{sum(counts.values())} inputs"]
    lines += [f"{count:7} {kind}" for kind, count in counts.most_common()]
    for kind, found in sorted(groups.items()):
        lines.append(f"\n## {kind}: {counts[kind]} in {len(found)} groups")
        for (where, text), group in sorted(found.items(), key=lambda pair: -pair[1].count)[:most]:
            of = "; ".join(f"{name} {n}" for name, n in group.of.most_common(4))
            kinds = "; ".join(f"{name} {n}" for name, n in group.kinds.most_common(5))
            lines += [f"{group.count:5} {where}: {text}", f"      of {of}", f"      by {kinds}"]
            lines.append(f"      {group.example}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one input to repeat")
    parser.add_argument("--match", default="", help="a regular expression for names: ^fs, RNN")
    parser.add_argument("--most", type=int, default=60, help="groups to list of each class")
    parser.add_argument("--accepted", action="store_true", help="list which values were taken")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    start = time.monotonic()
    counts, groups, accepted = fuzz(options.inputs, options.seed, options.only, options.match)
    print(report(counts, groups, options.most))
    if options.accepted:
        for (name, kind), count in sorted(accepted.items()):
            print(f"{count:5} {name} took {kind}")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    jax.config.update("jax_platforms", "cpu")
    main()
