"""Composes docstrings, so that each argument is explained in one place.

The docstring that `help` shows for a module has several sources. The function that the module runs
gives the summary, the equation and the reference. The function and the base classes of the module
give the arguments. The module's own docstring adds its special features and the example.

Some functions inside the package, such as `_host.regularize`, explain arguments that they do not
have themselves: those texts are for the methods and classes that they complete.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

_Method = TypeVar("_Method", bound=Callable[..., Any])

_HEADING = re.compile(r"(Args|Attributes|Returns|Raises|Example|Reference):(.*)")
_ENTRY = re.compile(r"  (\*{0,2}\w+(?:, \*{0,2}\w+)*): ")
_EQUATION = "\n\n    "  # equations are indented
_IMPORTED = re.compile(r"from flax_spatialdrop\S* import (\w+)")
_POINTER = re.compile(r": as in `\w+`[.,;]\s*")


def document(
    target: Any, names: Iterable[str], heading: str, function: Any = None, bases: Iterable[Any] = ()
) -> None:
    """Completes the docstring of a class or function.

    Args:
      target: the class or function. Its own docstring may begin with a summary and an equation. If
        it has no equation, the summary, equation and text of `function` come first.
      names: the arguments to explain, in this order.
      heading: the heading of the arguments, "Args" or "Attributes".
      function: its docstring gives the parts that the target's leaves out.
      bases: classes that explain arguments too. A class without an example gets that of the last
        base, with its own name.

    If an argument has several texts, the first of these is used: that of the target, that of the
    function, that of the last base. A text that points elsewhere, "as in `f`", replaces no other
    text; if it says more than that, the rest is added to the other text.
    """
    if target.__doc__ is None:  # as with python -OO
        return
    docs = [*(base.__doc__ for base in bases), getattr(function, "__doc__", None), target.__doc__]
    *inherited, shared, own = map(_sections, docs)
    texts: dict[str, str] = {}
    for doc in docs:
        for name, text in _explained(doc).items():
            texts[name] = _replaced(texts.get(name), text)
    # A base may explain arguments that only subclasses take.
    names = [*names, *_explained(target.__doc__)]
    needs_head = _EQUATION in shared[""] and _EQUATION not in own[""]
    heads = [shared[""], own[""]] if needs_head else [own[""]]
    inherits = ["Reference"] if isinstance(target, type) else ["Returns", "Raises", "Reference"]
    parts = {name: shared[name] for name in inherits if name in shared}
    examples = [part["Example"] for part in inherited if "Example" in part]
    if examples:
        parts["Example"] = _with_name(examples[-1], target.__name__)
    parts |= own
    parts[heading] = "\n".join(["", *dict.fromkeys(texts[name] for name in names if name in texts)])
    order = (heading, "Returns", "Raises", "Example", "Reference")
    found = [f"{name}:{parts[name]}" for name in order if name in parts]
    target.__doc__ = "\n\n".join([*filter(None, heads), *found]) + "\n"


def completed_by(function: Any, *bases: Any) -> Callable[[_Method], _Method]:
    """A decorator for a method or function whose docstring `document` completes."""

    def complete(method: _Method) -> _Method:
        document(method, inspect.signature(method).parameters, "Args", function, bases)
        return method

    return complete


def _replaced(known: str | None, text: str) -> str:
    """Returns the text of an argument that has another text already, or none."""
    pointer = _POINTER.search(text)
    if known is None or pointer is None:
        return text
    rest = text[pointer.end() :]
    return f"{known}\n    {rest[0].upper()}{rest[1:]}" if rest else known


def _with_name(example: str, name: str) -> str:
    """An example of another class with the name of that class replaced."""
    imported = _IMPORTED.search(example)
    return example if imported is None else re.sub(rf"\b{imported[1]}\b", name, example)


@cache  # importing the modules reads the docstrings of their bases again and again
def _sections(doc: str | None) -> dict[str, str]:
    """Returns the text under each heading, and under "" the text before the first one."""
    found, heading = {"": ""}, ""
    for line in inspect.cleandoc(doc or "").splitlines():
        match = _HEADING.fullmatch(line)
        if match:
            heading, line = match.groups()
            found[heading] = line
        else:
            found[heading] += f"\n{line}"
    return {heading: text.rstrip() if heading else text.strip() for heading, text in found.items()}


@cache
def _explained(doc: str | None) -> dict[str, str]:
    """Returns the lines that explain each argument; arguments explained together share them."""
    sections = _sections(doc)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (sections.get("Args", "") + sections.get("Attributes", "")).splitlines():
        match = _ENTRY.match(line)
        if match:
            names = match[1].split(", ")
            found |= dict.fromkeys(names, line)
        elif line.strip():
            found |= {name: f"{found[name]}\n{line}" for name in names}
    return {name.lstrip("*"): text for name, text in found.items()}
