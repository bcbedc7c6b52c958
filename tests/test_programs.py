"""The programs of every case, compared as text and not run: what is proven once holds of all.

Two functions with the same jaxpr return the same bits, and have the same derivatives, under every
transform.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_spatialdrop as fs

from .catalogue import BERNOULLI, CASES, FACES, REPRESENTATIVES

KEY = jax.random.key(23)
TRACED = "traced"

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
each_module = pytest.mark.parametrize("face", FACES[1:])


def program(f, case, rate, dtype="float32", sharding=None):
    """The jaxpr of f(key, x, rate), a rate that is a number or traced, and its constants."""
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
    if not case.shape or case.shape[0] not in range(1, 9):
        return
    size = case.shape[0]
    mesh = jax.make_mesh((size,), ("d",), (AxisType.Explicit,), devices=jax.devices()[:size])
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, P("d"))
        text, _ = of_f = program(f, case, 0.3, sharding=sharding)
        assert f"{size}@d" in text
        assert of_f == program(g, case, 0.3, sharding=sharding)


@each_case
def test_it_is_that_of_its_kind(case):
    """Dropout's own, for all that differ from it in the noise shape alone."""
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

    def by_attribute(key, x, rate):  # and not at the call
        layer = case.module(face)(rate, **case.options)
        return layer.apply({}, x, False, key) if face == "linen" else layer(x, rngs=key)

    assert program(by_attribute, case, 0.3) == program(case.face(), case, 0.3)


def drawn_and_given(case, face):
    """The mask that a module draws, as f(key, x, rate), and the call with it, f(mask, x, rate)."""
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


def test_another_program_would_be_seen():
    case = CASES[0]
    text = program(case.face(), case, 0.3)
    others = [
        lambda key, x, rate: fs.dropout(key, x, 0.31),
        lambda key, x, rate: fs.dropout(key, x, rate, noise_shape=(None, None, 1)),
        lambda key, x, rate: fs.dropout(jax.random.split(key)[0], x, rate),
    ]
    assert all(program(f, case, 0.3) != text for f in others)
