"""What drops in a model: the record of a forward pass, and the table it is printed as."""

import dataclasses
import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from ._rates import is_static
from ._typing import Array, Key, Rate


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in a model where a regularizer is called, as a forward pass used it.

    Attributes:
      path: where the module is, "" for the model itself; a second call from the same place ends
        in " (call 2)".
      module: the module's class; Flax's own with its full name.
      shape: of the inputs.
      noise_shape: of the mask.
      rates: every rate it ran with, in order; more than one where a traced rate moves.
      stream: where its keys came from: the name of a stream, "a key" or "a mask" given at the
        call, "" where no mask is drawn.
      active: whether it may drop: not deterministic, and no rate of exactly 0.
      runs: how often it ran: more than once inside a scan.
      masks: how many different masks it had.
      kept_bytes: what the backward pass would keep of it, all runs together.
    """

    path: str
    module: str
    shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    rates: tuple[float, ...]
    stream: str
    active: bool
    runs: int
    masks: int
    kept_bytes: int

    @property
    def coin_flips(self) -> int:
        """How many independent draws its masks are made of."""
        drawn = self.active and self.stream not in ("", "a mask")
        return math.prod(self.noise_shape) * self.masks if drawn else 0


@dataclasses.dataclass(frozen=True)
class Summary:
    """The sites of a forward pass in the order of their calls; `print` shows them as a table.

    Attributes:
      sites: each call of a regularizer.
      remarks: sentences about what may not be meant: sites that never drop, or drop everything,
        or share a mask.
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
            table.add_column(heading, overflow="fold")
        for heading in ("flips", "kept", "runs"):
            table.add_column(heading, justify="right", no_wrap=True)
        for site in self.sites:
            table.add_row(
                site.path or "(the model)",
                site.module,
                str(list(site.noise_shape)),
                str(list(site.shape)),
                _rates(site.rates),
                site.stream or "-",
                "yes" if site.active else "no",
                str(site.coin_flips),
                _bytes(site.kept_bytes),
                str(site.runs),
            )
        text = io.StringIO()
        Console(file=text, width=120, markup=False, highlight=False).print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        kept = _bytes(sum(site.kept_bytes for site in self.sites))
        lines.append(f"kept for the backward pass: {kept}")
        return "\n".join(lines + [f"- {remark}" for remark in self.remarks])

    __repr__ = __str__


class Recorder:
    """Notes each regularizer while a model is traced, and what it had while the program runs."""

    def __init__(self) -> None:
        self._sites: list[Site] = []
        self._runs: list[list[tuple[float, bytes]]] = []

    def note(
        self,
        path: tuple[Any, ...],
        module: str,
        inputs: Array,
        noise_shape: tuple[int, ...],
        *,
        rate: Rate,
        deterministic: bool,
        stream: str,
        key: Key,
        mask: Array | None,
        kept_bytes: int,
    ) -> None:
        """Notes a call, and has the running program tell its rate and its key, or its mask."""
        active = not deterministic and not is_static(rate, 0.0)
        if active and mask is not None:
            stream, drawn_with = "a mask", mask
        elif key is not None:
            drawn_with = _words(key)
        else:
            stream, drawn_with = "", np.zeros(0, np.uint32)
        name = "/".join(map(str, path))
        shape = inputs.shape
        site = Site(name, module, shape, noise_shape, (), stream, active, 0, 0, kept_bytes)
        ran = partial(self._ran, len(self._sites))
        if isinstance(rate, float):  # and not through the program, which would round it
            jax.debug.callback(partial(ran, rate), drawn_with)
        else:
            jax.debug.callback(ran, rate, drawn_with)
        self._sites.append(site)
        self._runs.append([])

    def _ran(self, index: int, rate: Any, drawn_with: Any) -> None:
        self._runs[index].append((float(rate), np.asarray(drawn_with).tobytes()))

    def summary(self) -> Summary:
        """What ran; call it when the program has."""
        jax.effects_barrier()
        seen: dict[str, int] = {}
        sites, draws = [], []
        for site, runs in zip(self._sites, self._runs, strict=True):
            if not runs:  # traced, but never run: JAX traces some bodies twice
                continue
            seen[site.path] = seen.get(site.path, 0) + 1
            call = f" (call {seen[site.path]})" if seen[site.path] > 1 else ""
            rates = tuple(dict.fromkeys(rate for rate, _ in runs))
            masks = {mask for _, mask in runs}
            sites.append(
                dataclasses.replace(
                    site,
                    path=site.path + call,
                    rates=rates,
                    runs=len(runs),
                    masks=len(masks) if site.active else 0,
                    kept_bytes=site.kept_bytes * len(runs),
                )
            )
            draws.append(masks if site.stream else set())
        return Summary(tuple(sites), tuple(_remarks(sites, draws)))


def draws(rate: Rate, deterministic: bool, mask: Array | None) -> bool:
    """Whether a call with these arguments draws a mask."""
    fixed = is_static(rate, 0.0) or is_static(rate, 1.0)
    return mask is None and not deterministic and not fixed


def with_zeros(tree: Any) -> Any:
    """A tree with zeros in the place of each jax.ShapeDtypeStruct."""

    def zeros(leaf: Any) -> Any:
        is_struct = isinstance(leaf, jax.ShapeDtypeStruct)
        return jnp.zeros(leaf.shape, leaf.dtype) if is_struct else leaf

    return jax.tree.map(zeros, tree)


def kept_for_backward(f: Callable[[Array], jax.Array], x: Array) -> int:
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


def _words(key: jax.Array) -> jax.Array:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(key) if typed else key


def _remarks(sites: list[Site], draws: list[set[bytes]]) -> list[str]:
    found = []
    first: dict[bytes, Site] = {}
    for site, masks in zip(sites, draws, strict=True):
        name = site.path or "the model"
        if site.rates == (0.0,):
            found.append(f"{name} never drops: its rate is 0")
        elif not site.active:
            found.append(f"{name} never drops: it is deterministic")
        elif 1.0 in site.rates:
            found.append(f"{name} drops everything: its rate is 1")
        if masks and len(masks) < site.runs:
            found.append(f"{name} has {_plural(len(masks), 'mask')} for its {site.runs} runs")
        others = {first[mask].path or "the model": first[mask] for mask in masks if mask in first}
        for other_name, other in others.items():
            what = "mask" if other.noise_shape == site.noise_shape else "key"
            found.append(f"{name} shares its {what} with {other_name}")
        first |= {mask: site for mask in masks if mask not in first}
    return found


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _rates(rates: tuple[float, ...]) -> str:
    if len(rates) == 1:
        return f"{rates[0]:.4g}"
    return f"{min(rates):.4g} to {max(rates):.4g}"


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    if count < 2**20:
        return f"{count / 2**10:.1f} KiB"
    return f"{count / 2**20:.1f} MiB"
