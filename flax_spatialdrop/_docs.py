"""Composes docstrings, so that each argument is explained in one place.

What `help` shows of a module comes from three docstrings: the summary, equation and source from the
function that the module runs; the arguments from that function and from the base classes of the
module; what is special, and the example, from the module itself.
"""

import inspect
import re
from collections.abc import Iterable
from typing import Any

_HEADING = re.compile(r"(Args|Attributes|Returns|Raises|Example|Reference):(.*)")
_ENTRY = re.compile(r"  (\*{0,2}\w+(?:, \*{0,2}\w+)*): ")
_POINTER = "as in `"


def document(
    target: Any, names: Iterable[str], heading: str, function: Any = None, bases: Iterable[Any] = ()
) -> None:
    """Completes the docstring of a class or function.

    Args:
      target: its own docstring says what is special, and wins. It may begin with a summary and an
        equation; without an equation, those of `function` stand before it.
      names: the arguments to explain, in this order.
      heading: what stands over them, "Args" or "Attributes".
      function: what the target runs; its docstring gives what the target's leaves out.
      bases: classes whose docstrings explain the arguments left. They win over a text of `function`
        that only points elsewhere, "as in `f`".
    """
    if target.__doc__ is None:  # as with python -OO
        return
    own, shared = _sections(target.__doc__), _sections(getattr(function, "__doc__", None))
    texts: dict[str, str] = {}
    for part in (*(_sections(base.__doc__) for base in bases), shared, own):
        for name, text in _entries(part.get("Args", "") + part.get("Attributes", "")).items():
            if name not in texts or not text.partition(": ")[2].startswith(_POINTER):
                texts[name] = text
    heads = [own[""]] if "\n\n    " in own[""] else [shared[""], own[""]]
    kept = ["Reference"] if isinstance(target, type) else ["Returns", "Raises", "Reference"]
    parts = {name: shared[name] for name in kept if name in shared} | own
    parts[heading] = "\n".join(["", *dict.fromkeys(texts[name] for name in names if name in texts)])
    order = (heading, "Returns", "Raises", "Example", "Reference")
    found = [f"{name}:{parts[name]}" for name in order if name in parts]
    target.__doc__ = "\n\n".join([*filter(None, heads), *found]) + "\n"


def _sections(doc: str | None) -> dict[str, str]:
    """The text under each heading; under "" what comes before the first."""
    found, heading = {"": ""}, ""
    for line in inspect.cleandoc(doc or "").splitlines():
        match = _HEADING.fullmatch(line)
        if match:
            heading, line = match.groups()
            found[heading] = line
        else:
            found[heading] += f"\n{line}"
    return {heading: text.rstrip() if heading else text.strip() for heading, text in found.items()}


def _entries(text: str) -> dict[str, str]:
    """The lines that explain each argument; those explained together share them."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        match = _ENTRY.match(line)
        if match:
            names = match[1].split(", ")
            found |= dict.fromkeys(names, line)
        elif line.strip():
            found |= {name: f"{found[name]}\n{line}" for name in names}
    return {name.lstrip("*"): text for name, text in found.items()}
