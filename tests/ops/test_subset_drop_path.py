"""The residual block whose branch runs on a fixed number of rows."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import patch_dropout, residual_drop_path

from ..errors import exactly
from ..hlo import collectives
from ..nnx.gradients import value_and_grad

KEY = jax.random.key(5)
X = jax.random.normal(jax.random.key(0), (8, 6))
W = jax.random.normal(jax.random.key(1), (6, 6))


def subset(key, x, branch, rate=0.5, **options):
    return residual_drop_path(key, x, branch, rate, mode="subset", **options)


def block(key, x, w, rate=0.5, **options):
    return subset(key, x, lambda x: jnp.tanh(x @ w), rate, **options)


def kept_rows(key, rows, rate=0.5, groups=1):
    """Returns which rows a key keeps, by the draw of patch dropout: the groups are its samples."""
    like = jnp.zeros((groups, rows // groups, 1))
    indices = patch_dropout(clone(key), like, rate, num_prefix_tokens=0)[1]
    return np.ravel(indices + np.arange(0, rows, rows // groups)[:, None])


def face(name, branch, **options):
    """Returns f(key, x, **at_the_call) of a block, as a function, or as a module."""
    options = {"rate": 0.5, "mode": "subset"} | options
    rate = options.pop("rate")
    if name == "function":
        return lambda key, x, **call: residual_drop_path(key, x, branch, rate, **options, **call)
    if name == "linen":
        layer = flax_spatialdrop.linen.ResidualDropPath(branch, rate, **options)
        return lambda key, x, **call: layer.apply({}, x, deterministic=False, rng=key, **call)
    layer = flax_spatialdrop.nnx.ResidualDropPath(branch, rate, **options)
    return lambda key, x, **call: layer(x, rngs=key, **call)


each_face = pytest.mark.parametrize("name", ["function", "linen", "nnx"])


@pytest.mark.parametrize("rate", [0.3, 0.5])
@pytest.mark.parametrize(
    "options", [{}, {"scale": False}, {"groups": 2}, {"batch_axis": 1}, {"batch_axis": -2}]
)
def test_it_adds_the_branch_of_the_kept_rows_and_so_is_its_gradient(options, rate):
    axis, groups = options.get("batch_axis", 0) % 3, options.get("groups", 1)
    x = jnp.moveaxis(jax.random.normal(jax.random.key(0), (10, 2, 6)), 0, axis)
    kept = kept_rows(KEY, 10, rate, groups)
    count = groups * round((1 - rate) * 10 / groups)
    assert len(kept) == count
    assert (np.diff(kept) > 0).all()
    seen = []

    def branch(w, x):
        seen.append(x.shape)
        return jnp.tanh(x @ w)

    def ours(x, w):
        return subset(clone(KEY), x, partial(branch, w), rate, **options)

    def expected(x, w):
        added = jnp.tanh(x @ w) * np.float32(10 / count if options.get("scale", True) else 1)
        mask = np.isin(np.arange(10), kept).reshape([-1 if i == axis else 1 for i in range(3)])
        return x + jnp.where(mask, added, 0)

    def with_gradient(f):
        pull = jax.vjp(f, x, W)
        return pull[0], *pull[1](jnp.cos(x))

    for one, two, jitted in zip(
        *map(with_gradient, (ours, expected)), jax.jit(partial(with_gradient, ours))(), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(jitted, one, rtol=1e-5, atol=1e-5)
    assert {*seen} == {(*x.shape[:axis], count, *x.shape[axis + 1 :])}


def test_other_rows_stay_bit_for_bit_and_get_no_nan():
    kept = kept_rows(KEY, 8)
    other = np.setdiff1d(np.arange(8), kept)
    x = X.at[other].set(jnp.nan).at[other, 0].set(-0.0)
    y, pullback = jax.vjp(lambda w: block(clone(KEY), x, w), W)
    assert np.asarray(y)[other].tobytes() == np.asarray(x)[other].tobytes()
    assert np.isfinite(np.asarray(y)[kept]).all()
    assert np.isfinite(pullback(X)[0]).all()  # a NaN in dropped rows does not reach the weights
    y, pullback = jax.vjp(lambda x: block(clone(KEY), x, W * jnp.nan), X)
    np.testing.assert_array_equal(y[other], X[other])
    np.testing.assert_array_equal(pullback(X)[0][other], X[other])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
def test_the_dtype_of_x_stays_and_rows_are_scaled_in_float32(dtype):
    x = X.astype(dtype)
    y = subset(clone(KEY), x, lambda x: x, 0.3)  # 6 of 8 rows
    wide = np.asarray(x).astype("complex64" if dtype == "complex64" else "float32")
    kept = kept_rows(KEY, 8, 0.3)
    expected = x.at[kept].add((wide * np.float32(8 / 6)).astype(x.dtype)[kept])
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, expected)


@each_face
def test_the_numbers_0_and_1_need_no_key_and_1_no_branch(name):
    np.testing.assert_array_equal(face(name, jnp.tanh, rate=0.0)(None, X), X + jnp.tanh(X))
    y = jax.make_jaxpr(partial(face(name, jnp.tanh, rate=1), None))(X)
    assert "tanh" not in str(y)
    np.testing.assert_array_equal(face(name, jnp.tanh, rate=1)(None, X), X)
    # 4 of 4 rows are kept, so they need no gather.
    y = jax.make_jaxpr(partial(face(name, jnp.tanh, rate=0.1), clone(KEY)))(X[:4])
    assert "gather" not in str(y)


def equations(jaxpr):
    """Yields all equations of a program, at any depth."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, tuple) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def test_the_backward_pass_keeps_the_indices_and_xla_knows_that_they_are_sorted():
    def identity(x):
        return subset(clone(KEY), x, lambda x: x, groups=2)

    kept = jax.tree.leaves(jax.vjp(identity, X)[1])
    kept = {id(r): (r.dtype, r.size) for r in kept}
    assert [*kept.values()] == [(jnp.int32, 4)]
    program = jax.make_jaxpr(jax.grad(lambda x: (identity(x) ** 2).sum()))(X).jaxpr
    gathers, scatters = (
        [e.params for e in equations(program) if e.primitive.name == name]
        for name in ("gather", "scatter-add")
    )
    assert len(gathers) == len(scatters) == 2  # one in each pass
    for told in gathers[0], *scatters:  # JAX's gradient of a scatter tells XLA nothing
        assert told["indices_are_sorted"]
        assert told["unique_indices"]


def test_vmap_and_scan_equal_a_loop():
    keys, xs = jax.random.split(jax.random.key(2), 3), jnp.stack([X, 2 * X, 3 * X])
    f = jax.jit(jax.grad(lambda x, key: (block(key, x, W, groups=2) ** 2).sum()))
    looped = [f(x, key) for x, key in zip(xs, keys, strict=True)]
    np.testing.assert_allclose(jax.vmap(f)(xs, clone(keys)), jnp.stack(looped), 1e-5, 1e-5)

    @jax.checkpoint
    def layer(x, key):
        return block(key, x, W), None

    x = X
    for key in clone(keys):
        x = block(key, x, W)
    np.testing.assert_allclose(jax.lax.scan(layer, X, clone(keys))[0], x, rtol=1e-5, atol=1e-5)


def test_a_key_used_twice_is_caught():
    key = jax.random.key(11)
    block(key, X, W)
    with pytest.raises(jax.errors.KeyReuseError):
        block(key, X, W)


each_axis_type = pytest.mark.parametrize(
    "axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"]
)


def pulled_back(groups, axis, x, arg, key):
    def f(x):
        options = {"groups": groups, "batch_axis": axis, "row_args": (arg,)}
        return subset(key, x, lambda x, arg: x * x * arg, **options)

    y, pullback = jax.vjp(f, x)
    return y, pullback(y)[0]


@each_axis_type
@pytest.mark.parametrize("spec", [P("d"), P(("d", "e")), P("e", "d"), P(None, "d", "e")], ids=str)
def test_groups_over_a_sharded_batch_need_no_collective(axis_type, spec):
    axis = 1 if spec[0] in (None, "e") else 0
    x = jax.random.normal(jax.random.key(0), (16, 16, 2))
    arg = jnp.moveaxis(jnp.arange(16.0).reshape(16, 1, 1), 0, axis)
    mesh = jax.make_mesh((4, 2), ("d", "e"), axis_types=(axis_type,) * 2)
    for groups in (8, 1) if spec in (P("d"), P(None, "d", "e")) else (8,):
        f = partial(pulled_back, groups, axis)
        expected = f(x, arg, clone(KEY))
        with jax.set_mesh(mesh):
            sharding = NamedSharding(mesh, spec)
            # The argument is not sharded, and gets the sharding of the rows.
            placed = jax.device_put(x, sharding), jax.device_put(arg, NamedSharding(mesh, P()))
            compiled = jax.jit(f, out_shardings=(sharding,) * 2).lower(*placed, clone(KEY))
            compiled = compiled.compile()
            ours = compiled(*placed, clone(KEY))
        for one, two in zip(ours, expected, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)
        assert bool(collectives(compiled.as_text())) == (groups == 1)


def test_without_jit_on_an_explicit_mesh():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:4])
    for groups in (4, 1):
        with jax.set_mesh(mesh):
            x = jax.device_put(X, NamedSharding(mesh, P("d")))
            y = block(clone(KEY), x, W, groups=groups)
        assert y.sharding.is_equivalent_to(x.sharding, 2)
        np.testing.assert_allclose(y, block(clone(KEY), X, W, groups=groups), rtol=1e-6, atol=1e-6)


def test_a_key_of_each_device_inside_shard_map():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def of_device(key, x, w):
        return block(jax.random.fold_in(key, jax.lax.axis_index("d")), x, w)

    def of_all(key, x, w):
        return block(key, x, w)

    cases = [
        (of_device, jax.random.fold_in, P("d"), jnp.split(X, 2)),
        (of_device, jax.random.fold_in, P(), [X, X]),
        (of_all, lambda key, device: key, P("d"), jnp.split(X, 2)),
    ]
    for f, key_of, spec, parts in cases:
        run = jax.shard_map(f, mesh=mesh, in_specs=(P(), spec, P()), out_specs=P("d"))
        y = jnp.split(jax.jit(run)(clone(KEY), X, W), 2)
        for device in range(2):
            expected = block(key_of(clone(KEY), device), parts[device], W)
            np.testing.assert_allclose(y[device], expected, rtol=1e-6, atol=1e-6)


@each_face
def test_arguments_with_rows_lose_the_same_rows(name):
    numbers = jnp.arange(8)
    other = {"number": numbers, "one": jnp.ones((1, 6)), "none": None}

    def branch(x, mask, other, *rest):
        np.testing.assert_array_equal(other["number"], kept_rows(KEY, 8))
        assert mask.shape == (4, 1)
        assert other["one"].shape == (1, 6)
        assert other["none"] is None
        return x * mask

    f = face(name, branch)
    y = f(clone(KEY), X, row_args=((numbers[:, None] > 3).astype(float), other))
    mask = np.isin(numbers, kept_rows(KEY, 8)) & (numbers > 3)
    np.testing.assert_array_equal(y, X + 2 * X * np.float32(mask[:, None]))


@each_face
@pytest.mark.parametrize("mode", ["row", "batch"])
def test_other_modes_give_them_whole_and_they_have_gradients(name, mode):
    def f(scale):
        if name == "function":
            options = {"mode": mode, "row_args": (scale,)}
            return residual_drop_path(clone(KEY), X, jnp.multiply, 0.25, **options)
        layer = flax_spatialdrop.nnx.ResidualDropPath(jnp.multiply, 0.25, mode=mode)
        if name == "nnx":
            return layer(X, row_args=(scale,), rngs=clone(KEY))
        layer = flax_spatialdrop.linen.ResidualDropPath(jnp.multiply, 0.25, mode)
        return layer.apply({}, X, row_args=(scale,), deterministic=False, rng=clone(KEY))

    def by_closure(scale):
        return residual_drop_path(clone(KEY), X, lambda x: x * scale, 0.25, mode=mode)

    (y, pullback), (z, expected) = (jax.vjp(g, X) for g in (f, by_closure))
    np.testing.assert_allclose(y, z, rtol=1e-6)
    np.testing.assert_allclose(pullback(y)[0], expected(z)[0], rtol=1e-6)


class Branch(nn.Module):
    """Has statistics, dropout and an argument of its own."""

    @nn.compact
    def __call__(self, x, sign, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.0)(x)
        return sign * nn.Dropout(0.5, deterministic=not train)(x)


class BranchOfNNX(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(6, momentum=0.0, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, sign, train):
        x = self.norm(x, use_running_average=not train)
        return sign * self.drop(x, deterministic=not train)


def test_statistics_and_dropout_of_a_linen_branch():
    layer = flax_spatialdrop.linen.ResidualDropPath(Branch(), 0.5, "subset", groups=2)
    # One row is too few for two groups, but nothing is dropped.
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    sign = jnp.ones((8, 1))
    state = layer.init(rngs, X[:1], True, row_args=(sign[:1],), deterministic=False)
    y = layer.apply(state, X[:3], False, row_args=(sign[:3],), deterministic=True)
    assert y.shape == (3, 6)
    rngs = {"dropout": jax.random.key(3)}
    call = {"row_args": (sign,), "deterministic": False, "rng": clone(KEY)}
    y, changed = layer.apply(state, X, True, rngs=rngs, mutable=["batch_stats"], **call)
    kept = kept_rows(KEY, 8, groups=2)
    (mean,) = (v["mean"] for v in changed["batch_stats"]["branch"].values())
    np.testing.assert_allclose(mean, X[kept].mean(0), rtol=1e-5, atol=1e-6)
    same = np.asarray(y == X)
    assert same[np.setdiff1d(np.arange(8), kept)].all()
    assert 0 < same[kept].sum() < same[kept].size
    assert jax.tree.structure(state["batch_stats"]) == jax.tree.structure(changed["batch_stats"])


def test_statistics_and_dropout_of_an_nnx_branch():
    layer = flax_spatialdrop.nnx.ResidualDropPath(BranchOfNNX(), 0.5, mode="subset", groups=2)
    sign = jnp.ones((8, 1))
    y = layer(X[:3], False, row_args=(sign[:3],), deterministic=True)
    assert y.shape == (3, 6)

    @nnx.jit
    def step(layer, key):
        def loss(layer):
            return (layer(X, True, row_args=(sign,), rngs=clone(key)) ** 2).sum()

        y = layer(X, True, row_args=(sign,), rngs=key)
        return y, value_and_grad(loss)(layer)[1]

    y, gradient = step(layer, clone(KEY))
    kept = kept_rows(KEY, 8, groups=2)
    np.testing.assert_allclose(layer.branch.norm.mean[...], X[kept].mean(0), rtol=1e-5, atol=1e-6)
    same = np.asarray(y == X)
    assert same[np.setdiff1d(np.arange(8), kept)].all()
    assert 0 < same[kept].sum() < same[kept].size
    assert gradient["branch"]["norm"]["scale"][...].any()
    assert layer.branch.drop.rngs.count[...] == 2


def test_a_summary_lists_the_block_and_what_is_inside():
    layer = flax_spatialdrop.linen.ResidualDropPath(Branch(), 0.3, "subset", groups=2)
    sign = jnp.ones((8, 1))
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    call = {"row_args": (sign,), "deterministic": False, "rngs": rngs}
    own, inner = flax_spatialdrop.linen.summarize(layer, X, True, **call).sites
    assert (own.noise_shape, own.coin_flips, own.rates) == ((8, 1), 8, (0.3,))
    assert own.kept_bytes == 2 * 3 * 4  # the indices
    assert (inner.shape, inner.coin_flips) == ((6, 6), 36)
    layer = flax_spatialdrop.nnx.ResidualDropPath(BranchOfNNX(), 0.3, mode="subset", groups=2)
    own, inner = flax_spatialdrop.nnx.summarize(
        layer, X, True, row_args=(sign,), rngs=nnx.Rngs(dropout=1)
    ).sites
    assert (own.noise_shape, own.coin_flips, own.kept_bytes) == ((8, 1), 8, 24)
    assert (inner.shape, inner.coin_flips) == ((6, 6), 36)


ERRORS = [
    (
        {"rate": jnp.float32(0.5)},
        TypeError,
        "with mode='subset' the rate determines the shape of the branch's input and must be a "
        "number, known when tracing: got an array of dtype float32",
    ),
    (
        {"rate": 0.95},
        ValueError,
        "rate must keep at least one of the 8 rows, but (1 - rate) * 8 rounds to 0: got rate=0.95",
    ),
    (
        {"rate": 0.8, "groups": 4},
        ValueError,
        "rate must keep at least one of the 2 rows of a group, but (1 - rate) * 2 rounds to 0: "
        "got rate=0.8",
    ),
    (
        {"groups": 3},
        ValueError,
        "groups must divide the number of rows of x, 8: got groups=3 for x.shape=(8, 6)",
    ),
    ({"groups": 0}, ValueError, "groups must be at least 1: got 0"),
    (
        {"groups": 2, "mode": "row"},
        ValueError,
        "groups must be 1 unless mode='subset': got 2 with mode='row'",
    ),
    ({"groups": 2.0}, TypeError, "groups must be an integer: got 2.0"),
    (
        {"batch_axis": (0, 1)},
        ValueError,
        "batch_axis must be one axis of x with mode='subset': got batch_axis=(0, 1)",
    ),
    (
        {"call": {"row_args": X}},
        TypeError,
        "row_args must be a tuple of arguments of the branch: got an array of shape (8, 6) "
        "and dtype float32",
    ),
    (
        {"call": {"row_args": (X[:7],)}},
        ValueError,
        "row_args must have as many rows as x, 8, or one row, along axis 0: "
        "got an array of shape (7, 6)",
    ),
    ({"call": {"row_args": (0.5,)}}, TypeError, "row_args must be a JAX or NumPy array: got 0.5"),
]


@each_face
@pytest.mark.parametrize(("change", "error", "message"), ERRORS, ids=lambda v: str(v)[:30])
def test_errors(name, change, error, message):
    change = dict(change)
    call = change.pop("call", {})
    with pytest.raises(error, match=exactly(message)):
        face(name, jnp.tanh, **change)(clone(KEY), X, **call)


def test_a_branch_that_does_not_return_its_rows_is_refused():
    message = (
        "the branch of a residual block must return an array that can be added to x, of shape "
        "(4, 6) and dtype float32: got shape (8, 6) and dtype float32"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        subset(clone(KEY), X, lambda x: X)
    with pytest.raises(ValueError, match=r"got key=None; pass one"):
        block(None, X, W)


def test_a_symbolic_number_of_rows():
    (rows,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((rows, 6), jnp.float32)
    message = (
        "x must have a known number of rows if some are dropped with mode='subset': "
        "got the symbolic size b"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        jax.export.export(jax.jit(lambda x: block(clone(KEY), x, W)))(x)
    exported = jax.export.export(jax.jit(lambda x: block(None, x, W, 0.0)))(x)
    np.testing.assert_allclose(exported.call(X), X + jnp.tanh(X @ W), rtol=1e-6, atol=1e-6)
