"""Conventions that all public names follow, tested by introspection."""

import inspect
import pathlib
import pydoc
import re
import subprocess
import sys

import flax.linen as nn
import pytest
from flax import nnx

import flax_spatialdrop
import flax_spatialdrop.linen
import flax_spatialdrop.nnx

from .catalogue import CASES, TOOLS, module_name


def public(module, kind):
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and kind(value)
    }


FUNCTIONS = public(flax_spatialdrop, inspect.isfunction)
RECURRENT = {"LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional"}  # networks, not regularizers
NETWORKS = RECURRENT | {"ResidualDropPath"}
LINEN = {
    name: cls
    for name, cls in public(flax_spatialdrop.linen, inspect.isclass).items()
    if name not in NETWORKS
}
NNX = {
    name: cls
    for name, cls in public(flax_spatialdrop.nnx, inspect.isclass).items()
    if name not in NETWORKS
}
# These drop, but not one array by one mask: they have contracts in files of their own.
NOT_REGULARIZERS = TOOLS | {
    "drop_connect",
    "recurrent_dropout",
    "recurrent_masks",
    "residual_drop_path",
    "zoneout",
}
INPUTS = {  # the name of x in these functions
    "condition_dropout": "condition",
    "embedding_dropout": "table",
    "modality_dropout": "inputs",
    "token_dropout": "ids",
}
REQUIRED = {"mask_id", "null"}  # the only options that cannot have a default
# Ids have no gradient, patches are removed, and conditions and modalities are trees, so these
# functions have their own test files.
NOT_AFFINE = {"condition_dropout", "modality_dropout", "patch_dropout", "token_dropout"}
# These have no probability to drop, so a strength or nothing stands in its place.
STRENGTHS = {"embedding_noise": ["alpha"], "spec_augment": []}
STRENGTHS |= {module_name(name): strength for name, strength in STRENGTHS.items()}
AT_THE_CALL = {
    "ConditionDropout": ["null", "rate", "mask"],
    "EmbeddingDropout": ["ids", "rate", "mask"],
    "EmbeddingNoise": ["lengths", "alpha", "mask"],
    "PatchDropout": ["rate"],  # no mask, since the mask would determine the shape of the output
    "SpecAugment": ["lengths", "fill", "mask"],
}
REGULARIZERS = {name: f for name, f in FUNCTIONS.items() if name not in NOT_REGULARIZERS}


def arguments(module):
    """The parameters of __init__, which NNX's metaclass hides from the signature of the class."""
    return {
        name: parameter
        for name, parameter in inspect.signature(module.__init__).parameters.items()
        if name not in {"self", "parent", "name"}
    }


each_linen_module = pytest.mark.parametrize("module", LINEN.values(), ids=list(LINEN))
each_nnx_module = pytest.mark.parametrize("module", NNX.values(), ids=list(NNX))


def test_every_regularizer_is_in_the_catalogue_and_has_its_two_modules():
    assert {case.function.__name__ for case in CASES} == {*REGULARIZERS} - NOT_AFFINE - {*STRENGTHS}
    assert {module_name(name) for name in REGULARIZERS} == set(LINEN) == set(NNX)


def test_every_public_name_of_linen_has_its_twin_in_nnx():
    def names(face):
        return set(public(face, lambda value: inspect.isclass(value) or inspect.isfunction(value)))

    assert names(flax_spatialdrop.linen) == names(flax_spatialdrop.nnx)


@pytest.mark.parametrize("name", LINEN)
def test_twins_have_the_same_options(name):
    """Except for those of Linen or NNX: the default mode, and the source of keys."""
    linen, its_twin = (
        {p.name: p.default for p in arguments(face[name]).values()} for face in (LINEN, NNX)
    )
    assert linen.pop("deterministic") is None
    assert its_twin.pop("deterministic") is False
    assert its_twin.pop("rngs") is None
    assert linen == its_twin


@pytest.mark.parametrize("function", REGULARIZERS.values(), ids=list(REGULARIZERS))
def test_key_x_rate_come_first_and_options_are_keywords(function):
    parameters = list(inspect.signature(function).parameters.values())
    first = ["key", INPUTS.get(function.__name__, "x"), *strength(function)]
    options = parameters[len(first) :]
    assert [p.name for p in parameters[: len(first)]] == first
    assert all(p.kind is p.KEYWORD_ONLY for p in options)
    assert {p.name for p in options if p.default is p.empty} <= REQUIRED
    assert "deterministic" not in {p.name for p in parameters}


def strength(function_or_module):
    return STRENGTHS.get(function_or_module.__name__, ["rate"])


OTHERS = {
    f"{face.__name__}.{name}": f
    for face in (flax_spatialdrop.linen, flax_spatialdrop.nnx)
    for name, f in public(face, inspect.isfunction).items()
}


DOCUMENTED = FUNCTIONS | OTHERS


@pytest.mark.parametrize("function", DOCUMENTED.values(), ids=list(DOCUMENTED))
def test_docstrings_of_functions_have_every_part(function):
    doc = inspect.getdoc(function)
    assert re.match(r".*\.\n\n    \S", doc), "one line, then the equation"
    parameters = inspect.signature(function).parameters.values()
    parts = ["Args:"] * bool(parameters) + ["Returns:", "Raises:", "Example:"]
    for part in (*parts, ">>>", "Reference: ", "https://"):
        assert part in doc, part
    for parameter in parameters:
        assert explains(doc, parameter.name), parameter
    assert sorted(parts, key=doc.index) == parts


@each_linen_module
def test_linen_modules_have_the_manners_of_flax(module):
    assert issubclass(module, nn.Module)
    fields = {p.name: p.default for p in arguments(module).values()}
    for name in strength(module):
        assert next(iter(fields)) == name
        assert fields[name] is inspect.Parameter.empty or "num_keep" in fields
    assert fields["deterministic"] is None
    assert fields["rng_collection"] == "dropout"
    call = list(inspect.signature(module.__call__).parameters.values())[1:]
    theirs = list(inspect.signature(nn.Dropout.__call__).parameters.values())[1:]
    assert [(p.name, p.default, p.kind) for p in call[:3]] == [
        (p.name, p.default, p.kind) for p in theirs
    ]
    assert [(p.name, p.default, p.kind) for p in call[3:]] == added_at_the_call(module)


@each_nnx_module
def test_nnx_modules_have_the_manners_of_flax(module):
    assert issubclass(module, nnx.Module)
    ours, theirs = arguments(module), arguments(nnx.Dropout)
    for name in strength(module):
        assert next(iter(ours)) == name
        assert ours[name].default is inspect.Parameter.empty or "num_keep" in ours
        assert ours[name].kind == theirs["rate"].kind
    for name in set(theirs) - {"broadcast_dims", "rate"}:
        assert (ours[name].default, ours[name].kind) == (theirs[name].default, theirs[name].kind)
    call = list(inspect.signature(module.__call__).parameters.values())
    theirs = list(inspect.signature(nnx.Dropout.__call__).parameters.values())
    assert [(p.name, p.default, p.kind) for p in call[: len(theirs)]] == [
        (p.name, p.default, p.kind) for p in theirs
    ]
    assert [(p.name, p.default, p.kind) for p in call[len(theirs) :]] == added_at_the_call(module)
    view = inspect.signature(nnx.Dropout.set_view).parameters
    assert inspect.signature(module.set_view).parameters.keys() == view.keys()


def added_at_the_call(module):
    names = AT_THE_CALL.get(module.__name__, ["rate", "mask"])
    return [(name, None, inspect.Parameter.KEYWORD_ONLY) for name in names]


@each_linen_module
def test_docstrings_of_linen_modules_have_every_part(module):
    check_docstring(module, "Attributes:")


@each_nnx_module
def test_docstrings_of_nnx_modules_have_every_part(module):
    check_docstring(module, "Args:")


def check_docstring(module, heading):
    doc = inspect.getdoc(module)
    assert re.match(r".*\.\n\n    \S", doc), "one line, then the equation"
    for part in (heading, "Example:", ">>>", "Reference: ", "https://"):
        assert part in doc, part
    for name in arguments(module):
        assert explains(doc, name), name


def explains(doc, name):
    """Whether a docstring explains the argument, alone or with others that share the text."""
    return re.search(rf"(?m)^  (\S+, )*\*{{0,2}}{name}(, \S+)*: \S", doc)


@pytest.mark.parametrize(
    "package", [flax_spatialdrop, flax_spatialdrop.linen, flax_spatialdrop.nnx]
)
def test_all_is_written_out_and_help_shows_every_name(package):
    told = pydoc.plain(pydoc.render_doc(package))
    assert sorted(package.__all__) == sorted(public(package, lambda v: not inspect.ismodule(v)))
    for name in package.__all__:
        assert re.search(rf"(?m)^    (class )?{name}\(", told), name


def test_the_package_is_typed_and_knows_its_version():
    assert (pathlib.Path(flax_spatialdrop.__file__).parent / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+", flax_spatialdrop.__version__)


def test_importing_the_core_imports_neither_flax_nor_matplotlib():
    code = "import sys, flax_spatialdrop; print({'flax', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_twins_of_a_residual_block_have_the_same_options():
    linen, its_twin = (
        {p.name: p.default for p in arguments(face.ResidualDropPath).values()}
        for face in (flax_spatialdrop.linen, flax_spatialdrop.nnx)
    )
    assert linen.pop("deterministic") is None
    assert its_twin.pop("deterministic") is False
    assert its_twin.pop("rngs") is None
    assert linen == its_twin
    assert list(linen)[:2] == ["branch", "rate"]
    options = inspect.signature(flax_spatialdrop.residual_drop_path).parameters
    assert {"mode", "batch_axis", "scale", "groups"} == {*linen} & {*options} - {"branch", "rate"}
    assert all(
        linen[name] == options[name].default for name in ("mode", "batch_axis", "scale", "groups")
    )


@pytest.mark.parametrize("face", [flax_spatialdrop.linen, flax_spatialdrop.nnx])
def test_docstrings_of_residual_blocks_have_every_part(face):
    check_docstring(face.ResidualDropPath, "Args:" if "nnx" in face.__name__ else "Attributes:")
    for part in ("Args:", "Returns:", "Raises:"):
        assert part in inspect.getdoc(face.ResidualDropPath.__call__)


@pytest.mark.parametrize("name", sorted(RECURRENT))
@pytest.mark.parametrize("method", ["__call__", "sample_masks"])
def test_recurrent_twins_take_the_same_arguments(name, method):
    linen, nnx = (
        {*inspect.signature(getattr(getattr(face, name), method)).parameters}
        for face in (flax_spatialdrop.linen, flax_spatialdrop.nnx)
    )
    assert linen - nnx <= {"rng", "init_key"}
    assert nnx - linen == {"rngs"}


@pytest.mark.parametrize("name", sorted(RECURRENT))
def test_docstrings_of_recurrent_layers_have_their_parts(name):
    for face, heading in ((flax_spatialdrop.linen, "Attributes:"), (flax_spatialdrop.nnx, "Args:")):
        layer = getattr(face, name)
        for part in (heading, "Example:", "Reference:", " = "):
            assert part in inspect.getdoc(layer), (layer, part)
        for method in (layer.__call__, layer.sample_masks):
            for part in ("Args:", "Returns:", "Raises:"):
                assert part in inspect.getdoc(method), (method, part)
