"""Shows the package's docstrings and signatures in the API reference.

The docstrings have Google's sections, single backticks around code, equations as indented blocks,
and shapes such as [*batch, *space, channel]. `to_rst` translates all of that for Sphinx, which
would read single backticks and asterisks in another way.
"""

import inspect
import re
import sys

FACES = (
    "flax_spatialdrop.linen",
    "flax_spatialdrop.nnx",
    "flax_spatialdrop.schedules",
    "flax_spatialdrop",
)
FIELDS = {"Args": "Parameters", "Attributes": "Attributes", "Returns": "Returns"}
FIELDS |= {"Raises": "Raises", "Reference": "Reference"}

_HEADING = re.compile(r"(Args|Attributes|Returns|Raises|Example|Reference):(.*)")
_ENTRY = re.compile(r"(\*{0,2}\w[\w.]*(?:, \*{0,2}\w[\w.]*)*): (.*)", re.S)
_SPECIAL = re.compile(r"[\\*|]|_(?!\w)")
_HIDDEN = {"parent", "name"}  # arguments that every Linen module has
_LONGEST = 70


def setup(app):
    """Connects both functions to autodoc."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _process_docstring)
    app.connect("autodoc-process-signature", _process_signature)
    return {"parallel_read_safe": True}


def to_rst(doc, link=lambda code: None):
    """Returns the reStructuredText of a docstring.

    Args:
      doc: the docstring.
      link: from the code between two backticks to the full name that it refers to, or None.
    """
    out, heading, body = [], "", []

    def finish():
        text = "\n".join(body)
        if heading in FIELDS:
            out.append(_field(FIELDS[heading], text, link))
        else:
            out.append(".. rubric:: Example" if heading else "")
            out.append(_blocks(inspect.cleandoc("\n" + text), link))

    for line in inspect.cleandoc(doc).splitlines():
        match = _HEADING.fullmatch(line)
        if match:
            finish()
            heading, body = match[1], [match[2].strip()]
        else:
            body.append(line)
    finish()
    return "\n\n".join(part for part in out if part) + "\n"


def _field(name, text, link):
    """A field: a list if its lines explain names, else paragraphs."""
    entries = []
    for line in inspect.cleandoc("\n" + text).splitlines():
        if not line.startswith(" ") and (_ENTRY.match(line) or not entries):
            entries.append(line.strip())
        elif entries:
            entries[-1] += f"\n{line}"
    matches = [_ENTRY.fullmatch(entry) for entry in entries]
    if (name in ("Returns", "Reference") and len(entries) < 2) or not all(matches):
        return f":{name}: {_indented(_blocks(inspect.cleandoc(text), link))}"
    items = []
    for names, explanation in (match.groups() for match in matches):
        names = ", ".join(f"**{_SPECIAL.sub(_escaped, part)}**" for part in names.split(", "))
        explanation = _blocks(inspect.cleandoc(explanation), link)
        items.append(f"- {names}: {_indented(explanation, 2)}")
    return f":{name}:\n" + "\n".join(f"   {_indented(item)}" for item in items)


def _blocks(text, link):
    """Paragraphs, lists, doctests and indented blocks."""
    text = re.sub(r"(?m)^(?!\s*- )(.*\S.*)\n(\s*- )", r"\1\n\n\2", text)
    parts = []
    for part in re.split(r"\n\s*\n", text):
        if part.startswith(">>>"):
            parts.append(part)
        elif part.startswith("    "):
            lines = inspect.cleandoc("\n" + part).replace("\n", "\n   ")
            parts.append(f".. code-block:: text\n\n   {lines}")
        elif part.lstrip().startswith("- "):
            parts.append(_inline(inspect.cleandoc("\n" + part), link))
        else:
            parts.append(_inline("\n".join(map(str.strip, part.splitlines())), link))
    return "\n\n".join(part for part in parts if part.strip())


def _inline(text, link):
    pieces = text.split("`")
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            pieces[i] = _SPECIAL.sub(_escaped, piece)
        else:
            code = " ".join(piece.split())
            target = link(code)
            pieces[i] = f":py:obj:`{code} <{target}>`" if target else f"``{code}``"
            if i + 1 < len(pieces) and pieces[i + 1][:1].isalnum():
                pieces[i] += "\\ "
    return "".join(pieces)


def _escaped(match):
    return f"\\{match[0]}"


def _indented(text, spaces=3):
    return text.replace("\n", "\n" + " " * spaces)


def _process_docstring(app, what, name, obj, options, lines):
    lines[:] = to_rst("\n".join(lines), _linker(name, obj)).splitlines()


def _linker(name, obj):
    """Finds the full name that code in the docstring of an object refers to."""
    face = next(face for face in FACES if name.startswith(f"{face}."))
    owner = getattr(sys.modules[face], name.removeprefix(f"{face}.").split(".")[0])
    own = set(inspect.signature(owner).parameters) | {owner.__name__}
    own |= set(vars(obj).get("__annotations__", {})) if isinstance(obj, type) else set()

    def link(code):
        if code in own or (isinstance(owner, type) and hasattr(owner, code)):
            return None
        for module in (face, "flax_spatialdrop"):
            if code in sys.modules[module].__all__:
                return f"{module}.{code}"
        module, _, last = code.rpartition(".")
        return code if module in FACES and last in sys.modules[module].__all__ else None

    return link


def _process_signature(app, what, name, obj, options, signature, return_annotation):
    if signature is None:
        return None
    signature = inspect.signature(obj)
    if [*signature.parameters] == ["args", "kwargs"]:  # those of the metaclass of NNX
        signature = inspect.signature(obj.__init__.__get__(obj))
    parameters = [
        parameter.replace(
            annotation=_annotation(parameter.annotation), default=_default(parameter.default)
        )
        for parameter in signature.parameters.values()
        if not (what == "class" and parameter.name in _HIDDEN)
    ]
    if what == "method" and parameters[0].name == "self":
        del parameters[0]
    shown = str(inspect.Signature(parameters))
    returned = _annotation(signature.return_annotation)
    is_shown = what != "class" and returned is not inspect.Signature.empty
    return shown, str(returned) if is_shown else None


class _Text(str):
    """Text that a signature shows without quotes."""

    __repr__ = str.__str__


def _annotation(annotation):
    """The annotation with the last part of each name, or none if it is long."""
    if annotation is inspect.Parameter.empty:
        return annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"ForwardRef\('(\w+)'\)", r"\1", text.replace("NoneType", "None"))
    text = re.sub(r"(?:\w+\.)+(\w+)", r"\1", text)
    public = [name for name in sys.modules["flax_spatialdrop"].__all__ if name[0].isupper()]
    text = re.sub(rf"\b({'|'.join(public)})\b", r"flax_spatialdrop.\1", text)
    return _Text(text) if len(text) <= _LONGEST else inspect.Parameter.empty


def _default(default):
    """The default, or ... for one that cannot be written as code."""
    if default is inspect.Parameter.empty:
        return default
    if isinstance(default, type):
        return _Text(default.__name__)
    return _Text("...") if re.search(r"^<|\n", repr(default)) else default
