"""The residual block, which does not compute a dropped branch."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import drop_path, dropout, residual_drop_path, sample_mask
from flax_spatialdrop._compat import CAN_REMAT_INSIDE

from ..hlo import always_run, collectives

KEY = jax.random.key(5)
X = jax.random.normal(jax.random.key(0), (8, 6))
W = jax.random.normal(jax.random.key(1), (6, 6))
MODES = ["row", "batch"]
KEYS = list(jax.random.split(jax.random.key(2), 8))  # some keep a branch, some drop it


def keeps(key):
    """Whether the key keeps a branch at a rate of 0.5."""
    return bool(sample_mask(clone(key), 0.5, (1, 1)).all())


KEPT = next(key for key in KEYS if keeps(key))
DROPPED = next(key for key in KEYS if not keeps(key))


def assert_close(tree, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), tree, expected
    )


def block(key, x, w, rate=0.5, **options):
    return residual_drop_path(key, x, lambda x: jnp.tanh(x @ w), rate, **options)


def composed(key, x, w, rate=0.5, **options):
    return x + drop_path(key, jnp.tanh(x @ w), rate, **options)


@pytest.mark.parametrize("options", [{}, {"batch_axis": 1}, {"mode": "batch"}, {"scale": False}])
def test_a_block_is_x_plus_its_dropped_branch_and_so_is_its_gradient(options):
    def ours_and_theirs(key, rate):
        def loss(x, w, f):
            y = f(clone(key), x, w, rate, **options)
            return (y**2).sum(), y

        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return gradient(X, W, block), gradient(X, W, composed)

    traced = jax.jit(ours_and_theirs)
    programs = [partial(traced, rate=jnp.float32(rate)) for rate in (0, 0.5, 1, np.nan)]
    programs += [jax.jit(partial(ours_and_theirs, rate=rate)) for rate in (0.0, 0.5, 1.0)]
    for program, key in itertools.product(programs, KEYS[:4]):
        (gradients, y), (expected, z) = program(clone(key))
        np.testing.assert_allclose(y, z, rtol=1e-6, atol=1e-6)
        assert_close(gradients, expected)


@pytest.mark.parametrize("key", [KEPT, DROPPED], ids=["kept", "dropped"])
@pytest.mark.parametrize("face", ["function", "linen", "nnx"])
def test_layer_drop_of_the_recipe_skips_a_layer_or_runs_it_as_it_is(key, face):
    """Fan et al., 2020: a kept layer is not scaled, in training or in evaluation."""
    options = {"mode": "batch", "scale": False}
    branch = jnp.abs  # so that no program rounds otherwise
    if face == "function":
        y = residual_drop_path(clone(key), X, branch, 0.5, **options)
    elif face == "linen":
        layer = flax_spatialdrop.linen.ResidualDropPath(branch, 0.5, **options)
        y = layer.apply({}, X, deterministic=False, rng=clone(key))
        np.testing.assert_array_equal(layer.apply({}, X, deterministic=True), X + branch(X))
    else:
        layer = flax_spatialdrop.nnx.ResidualDropPath(branch, 0.5, **options)
        y = layer(X, rngs=clone(key))
        np.testing.assert_array_equal(layer(X, deterministic=True), X + branch(X))
    np.testing.assert_array_equal(y, X + branch(X) if keeps(key) else X)


@pytest.mark.parametrize("rate", [1.0, 0.5, jnp.float32(0.5)])
@pytest.mark.parametrize("jit", [lambda f: f, jax.jit])
def test_where_the_branch_is_dropped_the_block_is_the_identity(rate, jit):
    x = X.at[0, 0].set(-0.0)
    w = jnp.full_like(W, np.nan)
    y, pullback = jax.vjp(jit(lambda x, w: block(clone(DROPPED), x, w, rate, mode="batch")), x, w)
    assert np.asarray(y).tobytes() == np.asarray(x).tobytes()
    dx, dw = pullback(x)
    assert np.asarray(dx).tobytes() == np.asarray(x).tobytes()
    np.testing.assert_array_equal(dw, jnp.zeros_like(w))
    kept = block(clone(KEPT), x, w, mode="batch")
    assert jnp.isnan(kept).all()  # the branch returns NaN


@pytest.mark.parametrize("mode", MODES)
def test_the_numbers_0_and_1_need_no_key_and_1_no_branch(mode):
    np.testing.assert_array_equal(block(None, X, W, 0, mode=mode), X + jnp.tanh(X @ W))
    assert block(None, X, W, 1, mode=mode) is X
    program = str(jax.make_jaxpr(lambda x, w: block(None, x, w, 1, mode=mode))(X, W))
    assert "dot_general" not in program
    with pytest.raises(ValueError, match="got key=None"):
        block(None, X, W, 0.5, mode=mode)


def compiled_gradient(mode, rate=0.5):
    def loss(x, w, key):
        return (block(key, x, w, rate, mode=mode) ** 2).sum()

    f = jax.value_and_grad(loss, argnums=(0, 1))
    return jax.jit(f).lower(X, W, clone(KEY)).compile().as_text()


def test_products_of_the_branch_are_inside_a_conditional_in_both_passes():
    text = compiled_gradient("batch")
    assert len(re.findall(r" conditional\(", text)) >= 2
    assert len(re.findall(r" dot\(", text)) >= 4  # forward, forward again, and two for the gradient
    assert " dot(" not in always_run(text)


def test_products_outside_of_a_conditional_would_be_seen():
    assert " conditional(" not in compiled_gradient("row")
    assert " dot(" in always_run(compiled_gradient("row"))


def test_the_derivative_keeps_x_and_weights_as_they_are():
    def wide(x, w):
        branch = lambda x: jnp.tanh(jnp.tanh(x @ w) @ w.T)  # noqa: E731
        return residual_drop_path(clone(KEPT), x, branch, 0.5, mode="batch")

    w = jnp.ones((6, 50))
    kept = jax.tree.leaves(jax.vjp(wide, X, w)[1])
    assert sorted(r.size for r in kept if r.size > 1) == [X.size, w.size]
    assert any(r is w for r in kept)


def outputs_of_conditionals(jaxpr):
    """Yields the shapes of the outputs of all conditionals in a program, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            yield from (v.aval.shape for v in equation.outvars)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from outputs_of_conditionals(inner)


@pytest.mark.skipif(not CAN_REMAT_INSIDE, reason="JAX is older")
def test_what_is_inside_of_a_branch_stays_inside_of_its_conditional():
    def loss(x, w):
        branch = lambda x: jnp.tanh(x @ w) @ w.T  # noqa: E731
        return residual_drop_path(clone(KEPT), x, branch, 0.5, mode="batch").sum()

    gradient = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(X, jnp.ones((6, 50)))
    mask = {(1, 1)}  # JAX before 0.11 returns it from the conditional
    assert set(outputs_of_conditionals(gradient.jaxpr)) - mask == {X.shape, (6, 50)}


def test_vmap_over_keys_and_inputs_equals_a_loop():
    f = jax.grad(lambda x, key: (block(key, x, W, mode="batch") ** 2).sum())
    one = jax.jit(f)
    xs = jnp.stack([X * i for i in range(len(KEYS))])
    looped = jnp.stack([one(x, clone(key)) for x, key in zip(xs, KEYS, strict=True)])
    assert_close(jax.jit(jax.vmap(f))(xs, jax.random.split(jax.random.key(2), 8)), looped)
    looped = jnp.stack([one(x, clone(KEPT)) for x in xs])
    assert_close(jax.jit(jax.vmap(f, in_axes=(0, None)))(xs, clone(KEPT)), looped)


@pytest.mark.parametrize("remat", [lambda f: f, jax.checkpoint])
def test_scan_over_layers_equals_a_loop(remat):
    def scanned(x, ws, rates, keys):
        def layer(x, now):
            return block(now[2], x, now[0], now[1], mode="batch"), None

        return (jax.lax.scan(remat(layer), x, (ws, rates, keys))[0] ** 2).sum()

    def looped(x, ws, rates, keys):
        for w, rate, key in zip(ws, rates, keys, strict=True):
            x = composed(key, x, w, rate, mode="batch")
        return (x**2).sum()

    with jax.enable_x64(True):  # so that differences are not rounding errors
        x, w = X.astype(float), W.astype(float)
        ws, rates = jnp.stack([w, w / 2, w / 3]), jnp.array([0.25, 0.5, 0.75])
        one, two = (jax.jit(jax.grad(f, argnums=(0, 1))) for f in (scanned, looped))
        for keys in jax.random.split(jax.random.key(9), (3, 3)):
            gradients = (f(x, ws, rates, clone(keys)) for f in (one, two))
            jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), *gradients)


@pytest.mark.parametrize("key", [KEPT, DROPPED], ids=["kept", "dropped"])
def test_forward_and_second_derivatives(key):
    def derivatives(f):
        def loss(w):
            return (f(clone(key), X, w, mode="batch") ** 3).sum()

        _, jvp = jax.jvp(loss, (W,), (W / 2,))
        _, hvp = jax.jvp(jax.grad(loss), (W,), (W / 2,))
        return jvp, hvp

    for ours, theirs in zip(derivatives(block), derivatives(composed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_one_compile_for_all_rates():
    traces = []

    @jax.jit
    def f(rate):
        traces.append(rate)
        return block(clone(KEY), X, W, rate, mode="batch")

    for rate in (0.0, 0.25, 1.0):
        f(jnp.float32(rate))
    assert len(traces) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_key_used_twice_is_caught(mode):
    key = jax.random.key(11)
    block(key, X, W, mode=mode)
    with pytest.raises(jax.errors.KeyReuseError):
        block(key, X, W, mode=mode)


def test_a_branch_may_drop_too():
    """Its gradient computes the branch again, with the same mask."""

    def f(w):
        branch = lambda x: dropout(jax.random.key(3), x @ w, 0.5)  # noqa: E731
        return residual_drop_path(clone(KEPT), X, branch, 0.5, mode="batch")

    y, pullback = jax.vjp(f, W)
    np.testing.assert_array_equal(y, X + 2 * dropout(jax.random.key(3), X @ W, 0.5))
    slope = dropout(jax.random.key(3), jnp.ones((8, 6)), 0.5)
    np.testing.assert_allclose(pullback(y)[0], 2 * X.T @ (y * slope), rtol=1e-5, atol=1e-5)


def pulled_back(mode, x, w, key):
    y, pullback = jax.vjp(lambda x: block(key, x, w, mode=mode), x)
    return pullback(y)[0]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("mode", MODES)
def test_blocks_over_a_sharded_batch_need_no_collective(mode, axis_type):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, P("d")))
        w = jax.device_put(W, NamedSharding(mesh, P()))
        for key in (KEPT, DROPPED):
            dx = jax.jit(partial(pulled_back, mode))(x, w, clone(key))
            assert dx.sharding.is_equivalent_to(x.sharding, 2)
            assert_close(dx, pulled_back(mode, X, W, clone(key)))
        text = jax.jit(partial(pulled_back, mode)).lower(x, w, clone(KEY)).compile().as_text()
    assert not collectives(text)


@pytest.mark.parametrize("face", ["function", "linen", "nnx"])
def test_a_key_of_each_device_inside_shard_map(face):
    """The input is the same on every device, so its type differs from that of the mask."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))

    def block(key, x):
        key = jax.random.fold_in(key, jax.lax.axis_index("d"))
        if face == "function":
            return residual_drop_path(key, x, jnp.tanh, 0.5, mode="batch")
        if face == "linen":
            layer = flax_spatialdrop.linen.ResidualDropPath(jnp.tanh, 0.5, mode="batch")
            return layer.apply({}, x, deterministic=False, rng=key)
        return flax_spatialdrop.nnx.ResidualDropPath(jnp.tanh, 0.5, mode="batch")(x, rngs=key)

    run = jax.shard_map(block, mesh=mesh, in_specs=(P(), P()), out_specs=P("d"))
    x = jnp.ones((1, 3))
    for seed in range(3):
        y = jax.jit(run)(jax.random.key(seed), x)
        for device in range(2):
            key = jax.random.fold_in(jax.random.key(seed), device)
            expected = residual_drop_path(key, x, jnp.tanh, 0.5, mode="batch")
            np.testing.assert_allclose(y[device], expected[0], rtol=1e-6)
