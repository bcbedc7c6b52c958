"""The forms of a whole mask that is drawn where it is applied."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_spatialdrop import apply_mask, dropout, fast_key, sample_mask
from flax_spatialdrop._random import redraw
from flax_spatialdrop._random.threefry import FAST_ROUNDS

KEY = jax.random.key(5)
ROUNDS = {"threefry2x32": 20, "fast": FAST_ROUNDS}
IN_ROWS = "tensor<256x128xi1>"
"""The mask of an array of [2, 4, 32, 128], in rows."""

GROUPS = [(2, 3, 1024), (4, 512), (512,), (32, 7)]
"""Shapes whose axis of groups has two spans of them, or one."""


def make(kind):
    return clone(KEY) if kind == "threefry2x32" else fast_key(clone(KEY))


def loss(x, ws, kind):
    for w in ws:
        x = dropout(make(kind), jnp.tanh(x @ w), 0.25)
    return x.sum()


@pytest.mark.parametrize("kind", ROUNDS)
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 4, 32, 128), (3, 8, 128), (2, 1, 64, 3), *GROUPS])
def test_all_forms_draw_the_same_mask(shape, kind):
    threshold = jnp.asarray(np.uint32(round(0.75 * 2**23)))
    expected = sample_mask(make(kind), 0.25, shape)
    like = jnp.zeros(shape, bool)
    words = jax.random.key_data(make(kind))
    forms = [redraw._each, redraw._in_rows]
    if redraw._has_forms(ROUNDS[kind], like):
        forms.append(redraw._packed)
    elif kind == "fast":
        forms.remove(redraw._in_rows)
    for form in forms:
        mask = jax.jit(form, static_argnames="rounds")(like, words, threshold, rounds=ROUNDS[kind])
        np.testing.assert_array_equal(mask, expected, str(form))


@pytest.mark.parametrize("kind", ROUNDS)
def test_the_form_is_in_rows_on_one_cpu_only(kind):
    f = jax.jit(lambda x: dropout(make(kind), x, 0.25))
    x = jnp.ones((2, 4, 32, 128))
    assert IN_ROWS in f.lower(x).as_text()
    mesh = jax.make_mesh((2, 4), ("data", "seq"), axis_types=(AxisType.Auto,) * 2)
    for spec in (P("data"), P("data", "seq"), P()):
        sharded = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
        assert IN_ROWS not in f.lower(sharded).as_text()
    assert IN_ROWS not in f.trace(x).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("kind", ROUNDS)
def test_inside_of_a_shard_map_each_part_is_drawn_in_rows(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def part(x):
        key = jax.random.fold_in(make(kind), jax.lax.axis_index("data"))
        return dropout(key, x, 0.25)

    x = jnp.ones((16, 4, 32, 128))
    f = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=P("data"), out_specs=P("data")))
    assert IN_ROWS in f.lower(x).as_text()
    keys = [jax.random.fold_in(make(kind), index) for index in range(8)]
    expected = [dropout(key, x[:2], 0.25) for key in keys]
    np.testing.assert_array_equal(f(x), jnp.concatenate(expected))


@pytest.mark.parametrize("kind", ROUNDS)
def test_transforms(kind):
    x = jnp.linspace(-1, 1, 2 * 4 * 32 * 128).reshape(2, 4, 32, 128)
    mask = sample_mask(make(kind), 0.25, x.shape)

    def f(x):
        return dropout(make(kind), x, 0.25)

    expected = apply_mask(x, mask, 0.25)
    y, tangent = jax.jvp(f, (x,), (x,))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(tangent, expected)
    np.testing.assert_array_equal(jax.vjp(f, x)[1](x)[0], expected)
    keys = jax.vmap(lambda seed: jax.random.fold_in(make(kind), seed))(jnp.arange(3))
    mapped = jax.jit(jax.vmap(lambda key: dropout(key, x, 0.25)))(clone(keys))
    for key, y in zip(keys, mapped, strict=True):
        np.testing.assert_array_equal(y, dropout(clone(key), x, 0.25))


@pytest.mark.skipif(
    jax.__version_info__ < (0, 12), reason="XLA fuses the derivative of tanh twice on JAX 0.10"
)
@pytest.mark.parametrize("kind", ROUNDS)
def test_each_pass_of_a_dense_layer_hashes_once(kind):
    """The masked gradient is an operand of two products, of which one needs it transposed."""
    depth = 3
    x, ws = jnp.ones((2, 4, 32, 128)), jnp.ones((depth, 128, 128))
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    code = gradient.lower(x, ws, kind).compile().as_text()
    hashes = [part for part in code.split("\n\n") if re.search(r"u32\[\d+,\d\S* xor\(", part)]
    assert 0 < len(hashes) <= 2 * depth
