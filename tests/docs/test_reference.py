"""Every public name is on exactly one page of the API reference, under its public path."""

import collections
import importlib.util
import inspect
import pathlib
import re

import pytest

import flax_spatialdrop as fsd
import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from experiments.drawing.pictures import PICTURES
from tests.catalogue import module_name

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"
PAGES = {path.name: path.read_text() for path in (DOCS / "api").glob("*.md")}
PUBLIC = {
    f"{face.__name__}.{name}": getattr(face, name)
    for face in (fsd, fsd.linen, fsd.nnx, fsd.schedules)
    for name in face.__all__
}
REGULARIZERS = [name for name in fsd.__all__ if hasattr(fsd.linen, module_name(name))]
_ENTRY = re.compile(r"^\.\. auto(function|class):: (\S+)$", re.M)
_IMAGE = re.compile(r"^```{image} \.\./_static/masks/(\w+)\.svg$", re.M)

spec = importlib.util.spec_from_file_location("docstrings", DOCS / "_ext" / "docstrings.py")
docstrings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docstrings)


def entries(pages):
    """Returns the pages and the directives of each name."""
    found = collections.defaultdict(list)
    for page, text in pages.items():
        for kind, name in _ENTRY.findall(text):
            found[name].append((page, kind))
    return found


def check_names(pages):
    found = entries(pages)
    assert sorted(found) == sorted(PUBLIC)
    assert [name for name, places in found.items() if len(places) > 1] == []


def test_every_public_name_stands_on_exactly_one_page():
    check_names(PAGES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (".. autofunction:: flax_spatialdrop.cutout\n", ""),
        ("flax_spatialdrop.cutout\n", "flax_spatialdrop.cut\n"),
        ("flax_spatialdrop.cutout\n", "flax_spatialdrop.drop_block\n"),
    ],
)
def test_a_name_that_is_missing_or_unknown_or_twice_is_noticed(old, new):
    assert old in PAGES["blocks.md"]
    with pytest.raises(AssertionError):
        check_names(PAGES | {"blocks.md": PAGES["blocks.md"].replace(old, new)})


def test_classes_and_functions_are_shown_as_what_they_are():
    for name, [(_, kind)] in entries(PAGES).items():
        assert (kind == "class") == inspect.isclass(PUBLIC[name]), name


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_function_stands_beside_its_modules(name):
    found = entries(PAGES)
    faces = (f"{face}.{module_name(name)}" for face in ("linen", "nnx"))
    paths = [f"flax_spatialdrop.{path}" for path in (name, *faces)]
    assert len({found[path][0][0] for path in paths}) == 1


def test_every_picture_stands_on_the_page_of_its_function():
    shown = collections.Counter(name for text in PAGES.values() for name in _IMAGE.findall(text))
    assert shown == dict.fromkeys(PICTURES, 1)
    for page, text in PAGES.items():
        for name in _IMAGE.findall(text):
            assert re.search(rf"auto\w+:: flax_spatialdrop(\.nnx)?\.{name}$", text, re.M), page


@pytest.mark.parametrize("name", PICTURES)
def test_every_regularizer_has_an_equation_and_a_source(name):
    [text] = [text for text in PAGES.values() if f"/{name}.svg" in text]
    section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert section.count("$$\n") == 2
    assert re.search(r"^:Mask: .+\n:Source: .*\]\(http", section, re.M)


def test_docstrings_are_translated():
    doc = """Drops [*batch, channel] of x_ with `other`.

            y = x * m

        See `x`:
          - one,
          - two.

        Args:
          key, x: as in `other`.
          rate: a number,
            or an array.

        Returns:
          An array: `y`.

        Example:
          >>> 1 + 1
          2

        Reference: Someone, 2014,
        https://example.org
        """
    expected = r"""Drops [\*batch, channel] of x\_ with :py:obj:`other <flax_spatialdrop.other>`.

.. code-block:: text

   y = x * m

See ``x``:

- one,
- two.

:Parameters:
   - **key**, **x**: as in :py:obj:`other <flax_spatialdrop.other>`.
   - **rate**: a number,
     or an array.

:Returns: An array: ``y``.

.. rubric:: Example

>>> 1 + 1
2

:Reference: Someone, 2014,
   https://example.org
"""
    link = {"other": "flax_spatialdrop.other"}.get
    assert docstrings.to_rst(inspect.cleandoc(doc), link) == expected


def test_code_leads_to_the_name_on_the_same_face():
    def link(name, code):
        return docstrings._linker(name, PUBLIC[name])(code)

    assert link("flax_spatialdrop.drop_block", "dropout") == "flax_spatialdrop.dropout"
    assert link("flax_spatialdrop.linen.RNN", "LSTM") == "flax_spatialdrop.linen.LSTM"
    assert link("flax_spatialdrop.nnx.RNN", "LSTM") == "flax_spatialdrop.nnx.LSTM"
    assert link("flax_spatialdrop.nnx.RNN", "linear_rates") == "flax_spatialdrop.linear_rates"
    assert link("flax_spatialdrop.schedules.late", "early") == "flax_spatialdrop.schedules.early"
    assert link("flax_spatialdrop.linen.LSTM", "dropout") is None  # its argument
    assert link("flax_spatialdrop.dropout", "dropout") is None
    assert link("flax_spatialdrop.dropout", "jax.random.key") is None


def signature(name):
    kind = "class" if inspect.isclass(PUBLIC[name]) else "function"
    return docstrings._process_signature(None, kind, name, PUBLIC[name], None, "()", None)


def test_signatures_are_short():
    assert signature("flax_spatialdrop.linear_rates") == (
        "(max_rate: float | Array | ndarray, depth: int, *, "
        "convention: Literal['huang', 'timm'] = 'huang')",
        "tuple[float | Array | ndarray, ...]",
    )
    for face in ("linen", "nnx"):
        shown, returned = signature(f"flax_spatialdrop.{face}.SpatialDropout1D")
        assert shown.startswith("(rate: float | Array | ndarray")
        assert "parent" not in shown
        assert returned is None
        assert (
            "Literal['variational', 'no_memory_loss', 'zoneout'] = 'variational'"
            in (signature(f"flax_spatialdrop.{face}.LSTM")[0])
        )
    assert signature("flax_spatialdrop.monte_carlo")[1] == "flax_spatialdrop.MonteCarlo"
    shown = " ".join(signature(name)[0] for name in PUBLIC)
    assert "(*args" not in shown
    assert " at 0x" not in shown
