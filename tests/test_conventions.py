"""What all public names have in common, found by introspection."""

import inspect
import pathlib
import re
import subprocess
import sys

import flax.linen as nn
import pytest

import flax_spatialdrop
import flax_spatialdrop.linen

from .catalogue import CASES


def public(module, kind):
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and kind(value)
    }


FUNCTIONS = public(flax_spatialdrop, inspect.isfunction)
MODULES = public(flax_spatialdrop.linen, inspect.isclass)
NOT_REGULARIZERS = {"apply_mask", "explain", "fast_key", "plot_mask", "sample_mask"}
REGULARIZERS = {name: f for name, f in FUNCTIONS.items() if name not in NOT_REGULARIZERS}


def camel_case(name):
    name = re.sub(r"_(\d)d$", r"_\1D", name)
    return "".join(part[0].upper() + part[1:] for part in name.split("_"))


def test_the_catalogue_has_every_regularizer_with_both_faces():
    assert {case.function.__name__ for case in CASES} == set(REGULARIZERS)
    assert {case.module.__name__ for case in CASES} == set(MODULES)
    assert all(camel_case(c.function.__name__) == c.module.__name__ for c in CASES)


@pytest.mark.parametrize("function", REGULARIZERS.values(), ids=list(REGULARIZERS))
def test_key_x_rate_come_first_and_options_are_keywords(function):
    parameters = list(inspect.signature(function).parameters.values())
    assert [p.name for p in parameters[:3]] == ["key", "x", "rate"]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[3:])
    assert all(p.default is not p.empty for p in parameters[3:])
    assert "deterministic" not in {p.name for p in parameters}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_docstrings_of_functions_have_every_part(function):
    doc = inspect.getdoc(function)
    assert re.match(r".*\.\n\n    \S", doc), "one line, then the equation"
    for part in ("Args:", "Returns:", "Raises:", "Example:", ">>>", "Reference: ", "https://"):
        assert part in doc, part
    for name in inspect.signature(function).parameters:
        assert f"  {name}: " in doc, name
    assert [part for part in ("Args:", "Returns:", "Raises:", "Example:") if part in doc] == sorted(
        ("Args:", "Returns:", "Raises:", "Example:"), key=doc.index
    )


@pytest.mark.parametrize("module", MODULES.values(), ids=list(MODULES))
def test_modules_have_the_manners_of_flax(module):
    assert issubclass(module, nn.Module)
    fields = {p.name: p.default for p in inspect.signature(module).parameters.values()}
    assert next(iter(fields)) == "rate"
    assert fields["deterministic"] is None
    assert fields["rng_collection"] == "dropout"
    call = list(inspect.signature(module.__call__).parameters.values())[1:]
    theirs = list(inspect.signature(nn.Dropout.__call__).parameters.values())[1:]
    assert [(p.name, p.default, p.kind) for p in call[:3]] == [
        (p.name, p.default, p.kind) for p in theirs
    ]
    assert [(p.name, p.default, p.kind) for p in call[3:]] == [
        ("rate", None, inspect.Parameter.KEYWORD_ONLY),
        ("mask", None, inspect.Parameter.KEYWORD_ONLY),
    ]


@pytest.mark.parametrize("module", MODULES.values(), ids=list(MODULES))
def test_docstrings_of_modules_have_every_part(module):
    doc = inspect.getdoc(module)
    assert re.match(r".*\.\n\n    \S", doc), "one line, then the equation"
    for part in ("Attributes:", "Example:", ">>>", "Reference: ", "https://"):
        assert part in doc, part
    own = set(inspect.signature(module).parameters) - {"parent", "name"}
    for name in own:
        assert f"  {name}: " in doc, name


def test_the_package_is_typed_and_knows_its_version():
    assert (pathlib.Path(flax_spatialdrop.__file__).parent / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+", flax_spatialdrop.__version__)


def test_importing_the_core_imports_neither_flax_nor_matplotlib():
    code = "import sys, flax_spatialdrop; print({'flax', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
