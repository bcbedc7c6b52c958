"""Compares the programs of all cases as text, without running them.

Two functions with the same jaxpr return the same bits and have the same derivatives under every
transformation. So a test of one of them is a test of both.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_spatialdrop as fs
import flax_spatialdrop.linen
import flax_spatialdrop.nnx

from .catalogue import BERNOULLI, CASES, FACES, REPRESENTATIVES, module_name

KEY = jax.random.key(23)
TRACED = "traced"

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
each_module = pytest.mark.parametrize("face", FACES[1:])


def program(f, case, rate, dtype="float32", sharding=None):
    """Returns the jaxpr of f(key, x, rate) and its constants; the rate is a number or traced."""
    x = jax.ShapeDtypeStruct(case.shape, dtype, sharding=sharding)
    if rate == TRACED:
        jaxpr = jax.make_jaxpr(f)(KEY, x, jnp.float32(0.3))
    else:
        jaxpr = jax.make_jaxpr(lambda key, x: f(key, x, rate))(KEY, x)
    return str(jaxpr), [np.asarray(const).tolist() for const in jaxpr.consts]


def assert_same_programs(f, g, case):
    rates = (0.3, TRACED) if case.kind.needs_rate_below_1 else (0.3, 1.0, TRACED)
    for rate in rates:
        for dtype in ("float32", "bfloat16", "complex64"):
            assert program(f, case, rate, dtype) == program(g, case, rate, dtype)
    for axis, size in enumerate(case.shape):
        if size not in range(2, 9):
            continue
        mesh = jax.make_mesh((size,), ("d",), (AxisType.Explicit,), devices=jax.devices()[:size])
        with jax.set_mesh(mesh):
            sharding = NamedSharding(mesh, P(*[None] * axis, "d"))
            text, _ = of_f = program(f, case, 0.3, sharding=sharding)
            assert f"{size}@d" in text
            assert of_f == program(g, case, 0.3, sharding=sharding)


@each_case
def test_it_is_that_of_its_kind(case):
    """For example, regularizers that differ from dropout only in the noise shape."""
    like = case.kind.like
    if like is None:
        assert case in REPRESENTATIVES
        return

    def same(key, x, rate):
        return like(key, x, rate, noise_shape=case.noise_shape)

    assert_same_programs(case.face(), same, case)


@each_case
@each_module
def test_a_module_has_that_of_its_function(case, face):
    assert_same_programs(case.face(face), case.face(), case)

    def by_attribute(key, x, rate):  # the rate is an attribute, and not passed at the call
        layer = case.module(face)(rate, **case.options)
        return layer.apply({}, x, False, key) if face == "linen" else layer(x, rngs=key)

    assert program(by_attribute, case, 0.3) == program(case.face(), case, 0.3)


def drawn_and_given(case, face):
    """Returns f(key, x, rate) and g(mask, x, rate), which draw and apply the mask of a module."""
    if face == "linen":
        layer = case.module(face)(0.1, **case.options, deterministic=False)
        return (
            lambda key, x, rate: layer.apply({}, x, rng=key, rate=rate, method="sample_mask"),
            lambda mask, x, rate: layer.apply({}, x, rate=rate, mask=mask),
        )
    layer = case.module(face)(0.1, **case.options)
    return (
        lambda key, x, rate: layer.sample_mask(x, rngs=key, rate=rate),
        lambda mask, x, rate: layer(x, rate=rate, mask=mask),
    )


@each_case
@each_module
def test_a_mask_given_is_applied_as_the_mask_drawn(case, face):
    drawn, given = drawn_and_given(case, face)
    if case.kind == BERNOULLI:
        mask = jnp.zeros(case.noise_shape, bool)
        for rate in (0.3, 1.0, TRACED):
            assert program(drawn, case, rate) == program(
                lambda key, _, rate: fs.sample_mask(key, rate, case.noise_shape), case, rate
            )
            assert program(lambda _, x, rate: given(mask, x, rate), case, rate) == program(
                lambda _, x, rate: fs.apply_mask(x, mask, rate), case, rate
            )
    if case in REPRESENTATIVES:
        x = jax.random.normal(jax.random.key(1), case.shape)
        mask = drawn(clone(KEY), x, 0.3)
        np.testing.assert_array_equal(mask, case.mask(clone(KEY), 0.3))
        expected = case.function(clone(KEY), x, 0.3, **case.options)
        np.testing.assert_array_equal(given(mask, x, 0.3), expected)


OPTIONS = {  # a value for each option that is not its default
    "noise_shape": (None, 1, None, None),
    "broadcast_dims": (1,),
    "data_format": "channels_first",
    "batch_dims": 2,
    "batch_axis": 1,
    "block_size": 2,
    "fill": 1.5,
    "head_axis": 1,
    "mask_id": 7,
    "mode": "batch",
    "normalize": "sample",
    "num_blocks": 2,
    "num_keep": 2,
    "num_prefix_tokens": 0,
    "per_channel": False,
    "per_sample": True,
    "scale": False,
    "special_ids": (0, 1),
    "vocab_size": 9,
}
SHAPES = {
    "timestep_dropout": (2, 5, 3),
    "spatial_dropout_1d": (2, 5, 3),
    "spatial_dropout_3d": (2, 4, 5, 6, 3),
    "patch_dropout": (2, 5, 3),
    "token_dropout": (2, 5),
    "embedding_dropout": (9, 4),
}
REGULARIZERS = sorted(
    {case.function for case in CASES} | {fs.token_dropout, fs.patch_dropout}, key=repr
)
PASSED = [
    (function, name)
    for function in REGULARIZERS
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name != "ids"
]


@pytest.mark.parametrize(
    ("function", "name"), PASSED, ids=[f"{f.__name__}-{name}" for f, name in PASSED]
)
def test_a_module_passes_each_option_on(function, name):
    shape = SHAPES.get(function.__name__, (2, 5, 6, 3))
    shape = (4, *shape) if name == "batch_dims" else shape
    x = jax.ShapeDtypeStruct(shape, np.int32 if function is fs.token_dropout else np.float32)
    options = {name: OPTIONS[name]}
    if function is fs.token_dropout:
        options = {"mask_id": 7} | options
    call = {"ids": np.zeros((2, 3), np.int32)} if function is fs.embedding_dropout else {}
    rate = None if name == "num_keep" else 0.3
    module = module_name(function.__name__)
    linen = getattr(flax_spatialdrop.linen, module)(rate, **options)
    nnx = getattr(flax_spatialdrop.nnx, module)(rate, **options)
    wanted, *found = [
        str(jax.make_jaxpr(run)(KEY, x))
        for run in (
            lambda key, x: function(key, x, rate, **call, **options),
            lambda key, x: linen.apply({}, x, deterministic=False, rng=key, **call),
            lambda key, x: nnx(x, rngs=key, **call),
        )
    ]
    assert found == [wanted, wanted]


def test_another_program_would_be_seen():
    case = CASES[0]
    text = program(case.face(), case, 0.3)
    others = [
        lambda key, x, rate: fs.dropout(key, x, 0.31),
        lambda key, x, rate: fs.dropout(key, x, rate, noise_shape=(None, None, 1)),
        lambda key, x, rate: fs.dropout(jax.random.split(key)[0], x, rate),
    ]
    assert all(program(f, case, 0.3) != text for f in others)
