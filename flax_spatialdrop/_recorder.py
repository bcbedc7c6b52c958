"""Notes each regularizer while a model is traced, and what it drew with while the program runs."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._compat import Literal
from ._summary import Site, Summary, remarks
from ._typing import Array, Key, Rate

_TOKEN = jax.make_user_context(None)
_ACTIVE: dict[object, "Recorder"] = {}


class Where(NamedTuple):
    """Which module it is: its path, its class, and where its keys come from."""

    path: tuple[Any, ...]
    module: str
    stream: str


class Recorder:
    """Collects the sites of one forward pass, made inside `recording`."""

    def __init__(self) -> None:
        self.place: tuple[Any, ...] = ("(not in the model)",)
        self._told: dict[str, None] = {}
        self._sites: list[Site] = []
        self._runs: list[list[tuple[float, bytes]]] = []

    @contextlib.contextmanager
    def at(self, path: tuple[Any, ...]) -> Iterator[None]:
        """Has functions, and modules that do not know where they are, noted at this place."""
        before, self.place = self.place, path
        try:
            yield
        finally:
            self.place = before

    def remark(self, text: str) -> None:
        """Adds a remark, once."""
        self._told[text] = None

    def note(
        self,
        where: Where,
        run: Callable[[Array], Any],
        inputs: Array,
        noise_shape: tuple[int, ...],
        *,
        rate: Rate,
        active: bool,
        key: Key,
        mask: Array | None,
        shape: tuple[int, ...] | None = None,
        kept: int | None = None,
    ) -> None:
        """Notes a call that is `run(inputs)`, and has the program tell its rate and key or mask.

        `shape` is of what is dropped, if that is not inputs; `kept` the bytes, if run cannot tell.
        """
        path, module, stream = where
        words: Any = np.zeros(0, np.uint32)
        if active and mask is not None:
            stream, words = "a mask", mask
        elif key is None:
            stream = ""
        else:
            is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
            words = jax.random.key_data(key) if is_typed else key
        name, shape = "/".join(map(str, path)), inputs.shape if shape is None else shape
        kept = kept_for_backward(run, inputs) if kept is None else kept
        self._sites.append(Site(name, module, shape, noise_shape, (), stream, active, 0, 0, kept))
        runs: list[tuple[float, bytes]] = []
        self._runs.append(runs)
        # Tied to the inputs, so that it runs where they come by: in each step of a scan, for each
        # example of a vmap. XLA sees that it is False, and computes nothing for it.
        tie = jnp.logical_and(jnp.any(inputs != inputs), np.False_)
        if isinstance(rate, float):  # and not through the program, which would round it
            jax.debug.callback(partial(_tell, runs, rate), words, tie)
        else:
            jax.debug.callback(partial(_tell, runs), rate, words, tie)

    def summary(self) -> Summary:
        """What ran; to be called when the program has."""
        jax.effects_barrier()
        calls: dict[str, int] = {}
        sites, draws = [], []
        for site, runs in zip(self._sites, self._runs, strict=True):
            if not runs:  # traced, but never run: a branch not taken, or a body traced twice
                continue
            calls[site.path] = calls.get(site.path, 0) + 1
            suffix = f" (call {calls[site.path]})" if calls[site.path] > 1 else ""
            rates = tuple(sorted({rate for rate, _ in runs}))
            words = {word for _, word in runs} if site.stream else set()
            found = dataclasses.replace(
                site,
                path=site.path + suffix,
                rates=rates,
                active=site.active and rates != (0.0,),
                runs=len(runs),
                draws=len(words),
                kept_bytes=site.kept_bytes * len(words),
            )
            sites.append(found)
            draws.append(words)
        return Summary(tuple(sites), (*remarks(sites, draws), *self._told))


def _tell(runs: list[tuple[float, bytes]], rate: Any, words: Any, tie: Any) -> None:
    """Called by the running program. A mask's shape is told with its bytes."""
    words = np.asarray(words)
    shape = b"" if words.dtype == np.uint32 else repr(words.shape).encode()
    rate = float(rate)
    clipped = 1.0 if np.isnan(rate) else min(max(rate, 0.0), 1.0)
    runs.append((clipped, shape + words.tobytes()))


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """Has every regularizer that is called inside note it. What is traced stays with it alone."""
    recorder, token = Recorder(), object()  # JAX's caches hold on to the token for long
    _ACTIVE[token] = recorder
    try:
        with _TOKEN(token):
            yield recorder
    finally:
        del _ACTIVE[token]


def unrecorded() -> contextlib.AbstractContextManager:
    """Has nothing that is called inside noted."""
    return _TOKEN(None)


def current_recorder() -> Recorder | None:
    """The recorder of the `recording` that this runs in, if any."""
    token = _TOKEN.value
    return None if token is None else _ACTIVE.get(token)


def run_with_arrays(f: Callable[[Any], Any], tree: Any) -> None:
    """Compiles and runs f(tree): arrays are its operands, all else is known when tracing.

    In place of a jax.ShapeDtypeStruct, f is given zeros.
    """
    leaves, structure = jax.tree.flatten(tree)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        raise TypeError(
            "summarize runs the model, and cannot inside jax.jit and the like: got a traced array; "
            "call it outside"
        )
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)}

    def run(arrays: dict[int, jax.Array]) -> None:
        filled = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        f(with_zeros(jax.tree.unflatten(structure, filled)))

    jax.jit(run)(arrays)


def with_zeros(tree: Any) -> Any:
    """A tree with zeros in the place of each jax.ShapeDtypeStruct."""

    def zeros(leaf: Any) -> Any:
        is_struct = isinstance(leaf, jax.ShapeDtypeStruct)
        return jnp.zeros(leaf.shape, leaf.dtype) if is_struct else leaf

    return jax.tree.map(zeros, tree)


def kept_for_backward(f: Callable[[Array], Any], x: Array) -> int:
    """The bytes that the backward pass of f keeps; nothing is computed.

    Zeros and the like, which JAX lists among them, are left out: XLA makes them where they are
    used.
    """
    jaxpr = jax.make_jaxpr(lambda x: jax.tree.leaves(jax.vjp(f, x)[1]))(x).jaxpr
    values = {*jaxpr.invars, *jaxpr.constvars}
    for equation in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in values for v in equation.invars):
            values |= {*equation.outvars}
    kept = [v.aval for v in jaxpr.outvars if not isinstance(v, Literal) and v in values]
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in kept)
