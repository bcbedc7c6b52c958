"""Keys that differ along mapped axes, in `jax.shard_map`, `jax.pmap` and `jax.vmap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flax_spatialdrop import dropout, fast_key, fold_in_axes

KEY = jax.random.key(12)
MESH = jax.make_mesh((3, 2), ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:6])
KEYS = {
    "typed": lambda: clone(KEY),
    "legacy": lambda: jax.random.PRNGKey(12),
    "fast": lambda: fast_key(clone(KEY)),
    "rbg": lambda: jax.random.key(12, impl="rbg"),
}


def mapped(f, check_vma=True, out_axes="data"):
    specs = {"in_specs": (P(), P("data")), "out_specs": P(out_axes)}
    return jax.jit(jax.shard_map(f, mesh=MESH, check_vma=check_vma, **specs))


MAPS = {
    "shard_map": mapped,
    "unchecked": functools.partial(mapped, check_vma=False),
    "pmap": functools.partial(jax.pmap, in_axes=(None, 0), axis_name="data"),
    "vmap": functools.partial(jax.vmap, in_axes=(None, 0), axis_name="data"),
}


def shard(names, key, x):
    return dropout(fold_in_axes(key, names), x, 0.5).reshape(-1, 16)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("how", MAPS)
def test_each_shard_has_the_key_of_its_index(how, key):
    def shard(key, _):
        return jax.random.key_data(fold_in_axes(key, "data"))[None]

    found = MAPS[how](shard)(key(), jnp.zeros(3)).reshape(3, -1)
    expected = [jax.random.key_data(jax.random.fold_in(key(), i)) for i in range(3)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("how", MAPS)
def test_each_shard_draws_with_that_key(how):
    y = MAPS[how](functools.partial(shard, "data"))(clone(KEY), jnp.ones((3, 16)))
    expected = [dropout(jax.random.fold_in(clone(KEY), i), jnp.ones(16), 0.5) for i in range(3)]
    np.testing.assert_array_equal(y.reshape(3, 16), expected)
    assert len(np.unique(expected, axis=0)) == 3


@pytest.mark.parametrize("how", MAPS)
def test_without_it_all_shards_draw_the_same_mask(how):
    y = MAPS[how](functools.partial(shard, ()))(clone(KEY), jnp.ones((3, 16)))
    np.testing.assert_array_equal(y.reshape(3, 16), [dropout(clone(KEY), jnp.ones(16), 0.5)] * 3)


def test_along_an_axis_that_is_not_folded_in_shards_agree():
    x = jnp.ones((3, 16))
    y = mapped(functools.partial(shard, "data"))(clone(KEY), x)  # which checks that they do
    both = mapped(functools.partial(shard, "data"), False, ("data", "model"))(clone(KEY), x)
    np.testing.assert_array_equal(both, jnp.repeat(y, 2, axis=0))


def test_a_key_folded_along_an_axis_is_known_to_vary_along_it():
    f = mapped(functools.partial(shard, ("data", "model")))
    with pytest.raises(ValueError, match=r"out_specs.*model"):
        f(clone(KEY), jnp.ones((3, 16)))


@pytest.mark.parametrize("names", [("data", "model"), ["model", "data"]], ids=str)
def test_names_are_folded_in_from_the_first_to_the_last(names):
    f = functools.partial(shard, names)
    y = mapped(f, out_axes=("data", "model"))(clone(KEY), jnp.ones((3, 16)))
    places = [{"data": data, "model": model} for data in range(3) for model in range(2)]
    for row, place in zip(y, places, strict=True):
        key = functools.reduce(jax.random.fold_in, [place[name] for name in names], clone(KEY))
        np.testing.assert_array_equal(row, dropout(key, jnp.ones(16), 0.5))
    assert len(np.unique(y, axis=0)) == 6


def test_axes_of_nested_maps():
    def inner(key, x):
        return shard(("data", "sample"), key, x)

    outer = jax.vmap(inner, in_axes=(None, 0), axis_name="sample")
    y = mapped(outer)(clone(KEY), jnp.ones((6, 16)))
    for i in range(6):
        key = jax.random.fold_in(jax.random.fold_in(clone(KEY), i // 2), i % 2)
        np.testing.assert_array_equal(y[i, 0], dropout(key, jnp.ones(16), 0.5))


def test_no_names_return_the_key_and_no_key_is_consumed():
    assert fold_in_axes(KEY, ()) is KEY  # which is used below, too

    def twice(key, x):
        return shard("data", key, x) + shard("data", key, x)

    x = jnp.ones((3, 16))
    once = MAPS["vmap"](functools.partial(shard, "data"))(KEY, x)
    np.testing.assert_array_equal(MAPS["vmap"](twice)(KEY, x), 2 * once)


WRONG = {
    "jit": (
        ValueError,
        "data",
        "axis_names must be axes of an enclosing jax.shard_map, jax.pmap or jax.vmap: got 'data', "
        "which is not bound here; under jax.jit alone no axis is needed, since one key draws one "
        "mask for the whole array",
    ),
    "twice": (ValueError, ("a", "a"), "axis_names must name each axis once: got ('a', 'a')"),
    "none": (
        TypeError,
        None,
        "axis_names must be the name of a mapped axis, or a tuple of names: got None",
    ),
    "number": (
        TypeError,
        ("a", 1),
        "axis_names must be the name of a mapped axis, or a tuple of names: got ('a', 1)",
    ),
}


@pytest.mark.parametrize(("kind", "names", "message"), WRONG.values(), ids=WRONG)
def test_errors(kind, names, message):
    with pytest.raises(kind) as caught:
        jax.jit(lambda key: fold_in_axes(key, names))(clone(KEY))
    assert str(caught.value) == message


def test_an_axis_that_the_compiler_shards_is_not_bound():
    f = jax.shard_map(
        functools.partial(shard, "model"),
        mesh=MESH,
        in_specs=(P(), P("data")),
        out_specs=P("data"),
        axis_names={"data"},
    )
    with pytest.raises(ValueError, match="got 'model', which is not bound here"):
        jax.jit(f)(clone(KEY), jnp.ones((3, 16)))


def test_one_key_is_needed():
    with pytest.raises(ValueError, match=r"\Akey must be a JAX PRNG key where .*: got key=None"):
        fold_in_axes(None, "data")
    with pytest.raises(ValueError, match=r"\Akey must be one PRNG key: got keys of shape \(2,\)"):
        fold_in_axes(jax.random.split(KEY), "data")
