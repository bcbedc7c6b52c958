"""The summary of the dropout in a model: a table of the places where it runs, with remarks."""

import contextlib
import dataclasses
import io
import math
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._compat import Literal
from ._typing import Array, Key, Rate


@dataclasses.dataclass(frozen=True)
class Site:
    """A place where a forward pass of a model called a regularizer.

    Attributes:
      path: the path of the module, "" for the model itself. The path of a second call of the same
        module ends in " (call 2)".
      module: the name of the module's class. A class of Flax has its full name, followed by
        ", run here" if `linen.drop_in` runs it. For an attention function: "attention weights".
      shape: the shape of the inputs.
      noise_shape: the shape of the mask.
      rates: all rates that it ran with, sorted. A traced rate may have several values. A dict of
        rates is shown as its mean. For EmbeddingNoise it is alpha, and 1 for SpecAugment, which has
        no rate.
      stream: where the keys came from: the name of a stream, or "a key" or "a mask" if the call was
        given one; "" if no mask was drawn.
      active: False if the call was deterministic or the rate was 0.
      runs: the number of times it ran. This is more than 1 inside a scan or a vmap, in a jitted
        function that is called again, or if remat inside the pass computes it again.
      draws: the number of different keys, or of different given masks, that it ran with.
      kept_bytes: the bytes that the backward pass would keep for this call alone, without remat,
        summed over its draws. A mask that is given to several sites counts at each of them.
    """

    path: str
    module: str
    shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    rates: tuple[float, ...]
    stream: str
    active: bool
    runs: int
    draws: int
    kept_bytes: int

    @property
    def coin_flips(self) -> int:
        """The number of entries of all masks that it drew; 0 if its masks were given.

        Each entry is an independent coin flip, except where a regularizer draws blocks (DropBlock,
        cutout, SpecAugment, spans of attention weights) or a fixed number of patches or rows.
        """
        drawn = self.active and self.stream not in ("", "a mask")
        return math.prod(self.noise_shape) * self.draws if drawn else 0

    def __str__(self) -> str:
        return self.path or "the model"


@dataclasses.dataclass(frozen=True)
class Summary:
    """All sites of a forward pass, in the order of their calls; `print` shows them as a table.

    Attributes:
      sites: a `Site` for each call of a regularizer.
      remarks: sentences about likely mistakes: sites that never drop or drop everything, and sites
        or runs that share a mask or a key.
    """

    sites: tuple[Site, ...]
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        if not self.sites:
            return "No regularizer was called."
        table = Table(box=None, pad_edge=False, header_style=None)
        for heading in ("site", "module", "mask", "of x", "rate", "stream", "active"):
            table.add_column(heading)
        for heading in ("flips", "kept", "runs"):
            table.add_column(heading, justify="right")
        for site in self.sites:
            table.add_row(
                _folded(str(site)),
                site.module,
                str(list(site.noise_shape)),
                str(list(site.shape)),
                _range(site.rates),
                site.stream or "-",
                "yes" if site.active else "no",
                str(site.coin_flips),
                _bytes(site.kept_bytes),
                str(site.runs),
            )
        text = io.StringIO()
        # Wide enough that rich never cuts a name. A terminal wraps long lines itself.
        Console(file=text, width=10_000, markup=False, highlight=False).print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        kept = _bytes(sum(site.kept_bytes for site in self.sites))
        lines.append(f"kept for the backward pass: {kept}")
        return "\n".join(lines + [f"- {remark}" for remark in self.remarks])

    __repr__ = __str__


def remarks(
    sites: list[Site], draws: list[set[bytes]], never_all: Collection[Site] = ()
) -> list[str]:
    """Returns remarks on likely mistakes.

    `draws` holds the keys or given masks of each site. The sites of `never_all` do not drop
    everything at a rate of 1.
    """
    never = [site for site in sites if site.rates == (0.0,)]
    deterministic = [site for site in sites if not site.active and site not in never]
    all_dropped = [site for site in sites if site.active and site.rates == (1.0,)]
    always = [site for site in all_dropped if site not in never_all]
    found = [
        f"{what}: {', '.join(map(str, which))}"
        for what, which in (
            ("never drops, at a rate of 0", never),
            ("never drops, being deterministic", deterministic),
            ("drops everything, at a rate of 1", always),
        )
        if which
    ]
    first_site_with: dict[tuple[bool, bytes], Site] = {}
    for site, sources in zip(sites, draws, strict=True):
        given = site.stream == "a mask"
        if sources and len(sources) < site.runs:
            what = "mask" if given else "key"
            found.append(f"{site} has {_plural(len(sources), what)} for its {site.runs} runs")
        tagged = [(given, source) for source in sources]
        known = [source for source in tagged if source in first_site_with]
        for other in dict.fromkeys(first_site_with[source] for source in known):
            same = (site.noise_shape, site.rates) == (other.noise_shape, other.rates)
            found.append(f"{site} shares its {'mask' if given or same else 'key'} with {other}")
        first_site_with |= {source: site for source in tagged if source not in first_site_with}
    return found


def _folded(path: str, width: int = 40) -> str:
    """Breaks a path into lines, each of which holds whole names."""
    lines = [""]
    for name in re.findall(r"[^/]+/?", path):
        if lines[-1] and len(lines[-1] + name) > width:
            lines.append("")
        lines[-1] += name
    return "\n".join(lines)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _range(rates: tuple[float, ...]) -> str:
    ends = dict.fromkeys((rates[0], rates[-1]))  # one number if both are equal
    return " to ".join(f"{rate:.4g}" for rate in ends)


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    if count < 2**20:
        return f"{count / 2**10:.1f} KiB"
    return f"{count / 2**20:.1f} MiB"


_TOKEN = jax.make_user_context(None)
"""The token of the recording that encloses a call; None if there is none."""

_ACTIVE: dict[object, "Recorder"] = {}
"""The recorder of each token."""


class Where(NamedTuple):
    """Where a regularizer runs.

    Attributes:
      path: the path of the module; None for the module that is running.
      module: the name of its class.
      stream: the name of the stream of its keys, or "a key".
    """

    path: tuple[Any, ...] | None
    module: str
    stream: str


class Call(NamedTuple):
    """What a module of Linen or NNX knows about a call of itself.

    Attributes:
      deterministic: whether nothing is dropped.
      find_key: returns the key to draw with. It is called only if a mask is drawn.
      where: describes the module. It is called only while a summary is made.
    """

    deterministic: bool
    find_key: Callable[[], Key]
    where: Callable[[], Where]


class Use(NamedTuple):
    """The mask, rate and key of one call of a regularizer.

    Attributes:
      noise_shape: the shape of the mask.
      rate: the checked rate.
      key: the key that the mask is drawn with; None if no mask is drawn.
      mask: a mask that the user gave in place of a draw.
      active: False if the call is deterministic, or the rate is the number 0.
      shape: the shape of the values that are dropped; None for the shape of the inputs.
      kept: the bytes kept for the backward pass; None to count them.
      drops_all_at_1: whether a rate of 1 drops everything. If not, the rate may be above 1.
    """

    noise_shape: tuple[int, ...]
    rate: Rate
    key: Key = None
    mask: Any = None
    active: bool = True
    shape: tuple[int, ...] | None = None
    kept: int | None = None
    drops_all_at_1: bool = True

    @property
    def effective_rate(self) -> Rate:
        """The rate, or 0 if nothing is dropped."""
        return self.rate if self.active else 0.0


class Recorder:
    """Collects the sites of one forward pass, made inside `_recording`."""

    def __init__(self) -> None:
        self.current_path: tuple[Any, ...] = ("(not in the model)",)
        self._remarks: dict[str, None] = {}
        self._sites: list[tuple[Site, Use, list[tuple[float, bytes]]]] = []

    @contextlib.contextmanager
    def at(self, path: tuple[Any, ...]) -> Iterator[None]:
        """Sets the path of functions, and of modules that do not know their own path."""
        before, self.current_path = self.current_path, path
        try:
            yield
        finally:
            self.current_path = before

    def remark(self, text: str) -> None:
        """Adds a remark unless it was added before."""
        self._remarks[text] = None

    def add(self, where: Where, run: Callable[[Array], Any], inputs: Array, use: Use) -> None:
        """Adds a site. At each run, the program reports the rate and the key or mask."""
        stream: str = where.stream
        source: Any = np.zeros(0, np.uint32)
        if use.active and use.mask is not None:
            stream, source = "a mask", use.mask
        elif use.key is None:
            stream = ""
        else:
            is_typed = jnp.issubdtype(use.key.dtype, jax.dtypes.prng_key)
            source = jax.random.key_data(use.key) if is_typed else use.key
        site = Site(
            path="/".join(map(str, self.current_path if where.path is None else where.path)),
            module=where.module,
            shape=inputs.shape if use.shape is None else use.shape,
            noise_shape=use.noise_shape,
            rates=(),
            stream=stream,
            active=use.active,
            runs=0,
            draws=0,
            kept_bytes=kept_for_backward(run, inputs) if use.kept is None else use.kept,
        )
        runs: list[tuple[float, bytes]] = []
        self._sites.append((site, use, runs))
        # A callback runs as often as its operands are computed. For example, in a vmap over three
        # examples that share a key:
        #     callback(rate, source)        runs once, since no operand is batched;
        #     callback(rate, source, tie)   runs three times, since the tie depends on the inputs.
        # The tie is always False. XLA simplifies it to a constant, so no input is computed for it.
        tie = jnp.logical_and(jnp.any(inputs != inputs), np.False_)
        if isinstance(use.rate, float):  # as an operand it would be rounded to float32
            jax.debug.callback(partial(_report, runs, use.rate), source, tie)
        else:
            most = 1.0 if use.drops_all_at_1 else math.inf
            jax.debug.callback(partial(_report, runs, most=most), use.rate, source, tie)

    def summary(self) -> Summary:
        """Returns the summary, after the program has run."""
        jax.effects_barrier()
        calls: dict[str, int] = {}
        sites, draws, never_all = [], [], []
        for site, use, runs in self._sites:
            if not runs:  # traced but not run: a branch not taken, or a second trace of a body
                continue
            calls[site.path] = calls.get(site.path, 0) + 1
            suffix = f" (call {calls[site.path]})" if calls[site.path] > 1 else ""
            rates = tuple(sorted({rate for rate, _ in runs}))
            sources = {source for _, source in runs} if site.stream else set()
            found = dataclasses.replace(
                site,
                path=site.path + suffix,
                rates=rates,
                active=site.active and rates != (0.0,),
                runs=len(runs),
                draws=len(sources),
                kept_bytes=site.kept_bytes * len(sources),
            )
            sites.append(found)
            draws.append(sources)
            never_all += [] if use.drops_all_at_1 else [found]
        return Summary(tuple(sites), (*remarks(sites, draws, never_all), *self._remarks))


def _report(
    runs: list[tuple[float, bytes]], rate: Any, source: Any, tie: Any, most: float = math.inf
) -> None:
    """Adds a run; the running program calls this. The shape of a mask is put before its bytes."""
    found = b""
    for array in map(np.asarray, jax.tree.leaves(source)):  # a mask may be a pair of arrays
        shape = b"" if array.dtype == np.uint32 else repr(array.shape).encode()
        found += shape + array.tobytes()
    rate = float(rate)
    clipped = most if np.isnan(rate) else min(max(rate, 0.0), most)
    runs.append((clipped, found))


@contextlib.contextmanager
def _recording() -> Iterator[Recorder]:
    """Records the regularizers that are called inside.

    JAX's caches of traced functions depend on the token. Functions are therefore traced anew
    inside, with callbacks, and these traces are not used outside.
    """
    recorder, token = Recorder(), object()  # caches keep the token alive, but not the recorder
    _ACTIVE[token] = recorder
    try:
        with _TOKEN(token):
            yield recorder
    finally:
        del _ACTIVE[token]


def unrecorded() -> contextlib.AbstractContextManager[None]:
    """Turns recording off inside."""
    nothing: contextlib.AbstractContextManager[None] = _TOKEN(None)
    return nothing


def current_recorder() -> Recorder | None:
    """Returns the recorder of the `_recording` that encloses this call, or None."""
    token = _TOKEN.value
    return None if token is None else _ACTIVE.get(token)


def note(where: Callable[[], Where], run: Callable[[Array], Any], inputs: Array, use: Use) -> None:
    """Adds the call `run(inputs)` to the summary if one is being made."""
    recorder = current_recorder()
    if recorder is not None:
        recorder.add(where(), run, inputs, use)


def summarize_run(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Summary:
    """Lists every regularizer that a forward pass of a model calls.

        kept bytes = bytes of the residuals of jax.vjp(regularizer, x)

    The pass is compiled and run, but XLA removes all computations except those of the keys, the
    rates and the given masks. The summary lists the modules of this package, Flax's own `Dropout`,
    classes derived from them, and the dropout of weights in the attention functions of this
    package. It does not list the dropout inside Flax's attention layers (except those that
    `drop_in` hands to this package), or functions that are called without a module.

    Args:
      forward: runs the model. Arrays are arguments of the compiled program; all other arguments are
        constants.
      *args: the arguments of the model: arrays, jax.ShapeDtypeStruct in place of arrays, or other
        values.
      **kwargs: the keyword arguments of the model, of the same kinds.

    Returns:
      A Summary. `print` shows its table; the attributes `sites` and `remarks` hold the same values.

    Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    leaves, structure = jax.tree.flatten((args, kwargs))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise TypeError(
            "summarize runs the model, which it cannot do inside jax.jit or another "
            "transformation: got a traced array; call it outside"
        )
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)}

    def run(arrays: dict[int, jax.Array]) -> None:
        filled = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = with_zeros(jax.tree.unflatten(structure, filled))
        forward(*args, **kwargs)

    with _recording() as recorder:
        jax.jit(run)(arrays)
    return recorder.summary()


def with_zeros(tree: Any) -> Any:
    """Returns the tree with zeros in place of each jax.ShapeDtypeStruct."""

    def zeros(leaf: Any) -> Any:
        is_struct = isinstance(leaf, jax.ShapeDtypeStruct)
        return jnp.zeros(leaf.shape, leaf.dtype) if is_struct else leaf

    return jax.tree.map(zeros, tree)


def kept_for_backward(f: Callable[[Array], Any], x: Array) -> int:
    """Counts the bytes of the residuals of jax.vjp(f, x), without computing them.

    Residuals that do not depend on an input, such as zeros, do not count: XLA computes them where
    they are used. An array that is kept twice counts once.
    """
    # The leaves of a function that jax.vjp returns are its residuals.
    jaxpr = jax.make_jaxpr(lambda x: jax.tree.leaves(jax.vjp(f, x)[1]))(x).jaxpr
    depends_on_input = {*jaxpr.invars, *jaxpr.constvars}
    for equation in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in depends_on_input for v in equation.invars):
            depends_on_input |= {*equation.outvars}
    kept = {v for v in jaxpr.outvars if not isinstance(v, Literal) and v in depends_on_input}
    return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in kept)
