"""What drops in a model: its sites, what is remarkable about them, and the table they print as."""

import dataclasses
import io
import math
import re


@dataclasses.dataclass(frozen=True)
class Site:
    """A place in a model where a regularizer is called, as a forward pass used it.

    Attributes:
      path: where the module is, "" for the model itself; a second call from the same place ends
        in " (call 2)".
      module: the module's class; Flax's own with its full name, followed by ", run here" where
        `linen.drop_in` runs it; "attention weights" for those of an attention function.
      shape: of the inputs.
      noise_shape: of the mask.
      rates: every rate it ran with, sorted; more than one where a traced rate moves.
      stream: where its keys came from: the name of a stream, "a key" or "a mask" given at the
        call, "" where no mask is drawn.
      active: whether it dropped anything: neither deterministic nor at a rate of 0.
      runs: how often it ran: more than once inside a scan, for the examples of a vmap, in a
        jitted function that is called again, or where a gradient in the pass computes it anew.
      draws: how many different keys, or masks given, it ran with.
      kept_bytes: what the backward pass would keep of it, on its own and outside any remat, for
        all its draws; a mask that several sites are given counts for each.
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
        """How many independent flips its masks are made of; 0 where masks are given to it."""
        drawn = self.active and self.stream not in ("", "a mask")
        return math.prod(self.noise_shape) * self.draws if drawn else 0

    def __str__(self) -> str:
        return self.path or "the model"


@dataclasses.dataclass(frozen=True)
class Summary:
    """The sites of a forward pass in the order of their calls; `print` shows them as a table.

    Attributes:
      sites: each call of a regularizer.
      remarks: about what may not be meant: sites that never drop, or drop everything, or share a
        mask or a key, and runs of a site that do.
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
        # So wide that no name is cut; a terminal wraps what it has no room for.
        Console(file=text, width=10_000, markup=False, highlight=False).print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        kept = _bytes(sum(site.kept_bytes for site in self.sites))
        lines.append(f"kept for the backward pass: {kept}")
        return "\n".join(lines + [f"- {remark}" for remark in self.remarks])

    __repr__ = __str__


def remarks(sites: list[Site], draws: list[set[bytes]]) -> list[str]:
    """What may not be meant; `draws` are the words of each site's keys, or its masks."""
    never = [site for site in sites if site.rates == (0.0,)]
    deterministic = [site for site in sites if not site.active and site not in never]
    always = [site for site in sites if site.active and site.rates == (1.0,)]
    found = [
        f"{what}: {', '.join(map(str, which))}"
        for what, which in (
            ("never drops, at a rate of 0", never),
            ("never drops, being deterministic", deterministic),
            ("drops everything, at a rate of 1", always),
        )
        if which
    ]
    first: dict[tuple[bool, bytes], Site] = {}
    for site, words in zip(sites, draws, strict=True):
        given = site.stream == "a mask"
        if words and len(words) < site.runs:
            what = "mask" if given else "key"
            found.append(f"{site} has {_plural(len(words), what)} for its {site.runs} runs")
        others = {first[given, word]: None for word in words if (given, word) in first}
        for other in others:
            same = (site.noise_shape, site.rates) == (other.noise_shape, other.rates)
            found.append(f"{site} shares its {'mask' if given or same else 'key'} with {other}")
        first |= {(given, word): site for word in words if (given, word) not in first}
    return found


def _folded(path: str, width: int = 40) -> str:
    """A path in lines that end between two names."""
    lines = [""]
    for name in re.findall(r"[^/]+/?", path):
        if lines[-1] and len(lines[-1] + name) > width:
            lines.append("")
        lines[-1] += name
    return "\n".join(lines)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _range(rates: tuple[float, ...]) -> str:
    return " to ".join(f"{rate:.4g}" for rate in dict.fromkeys((rates[0], rates[-1])))


def _bytes(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    if count < 2**20:
        return f"{count / 2**10:.1f} KiB"
    return f"{count / 2**20:.1f} MiB"
