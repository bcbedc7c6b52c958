"""blockwise_attention under JAX's transformations and on 8 devices, and its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_spatialdrop.linen import blockwise_attention, dot_product_attention

from ..hlo import collectives, sizes_of_words
from .test_blockwise_attention import normal

KEY = jax.random.key(8)
BATCH, LENGTH, HEADS, DEPTH = 4, 16, 4, 8
QKV = tuple(normal(i, (BATCH, LENGTH, HEADS, DEPTH)) for i in range(3))
PADDING = jnp.arange(LENGTH)[None, None, None] < jnp.array([9, 16, 12, 16])[:, None, None, None]
BIAS = normal(5, (1, HEADS, LENGTH, LENGTH))
attention = functools.partial(
    blockwise_attention, dropout_rate=0.3, query_block_size=5, key_block_size=4
)


def loss(qkv, key, attention=attention, **options):
    y = attention(*qkv, dropout_rng=key, **options)
    return (y**2).sum(), y


def run(qkv, key, bias=None, **options):
    """Returns the output, and the gradients of query, key, value and bias."""

    def of_operands(operands):
        return loss(operands[0], key, bias=operands[1], **options)

    grads, y = jax.grad(of_operands, has_aux=True)((qkv, bias))
    return y, grads


def check(ours, theirs):
    for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("broadcast", [True, False])
def test_vmap_over_examples_and_keys(broadcast):
    keys = jax.random.split(clone(KEY), BATCH)
    one = functools.partial(run, broadcast_dropout=broadcast)
    mapped = jax.jit(jax.vmap(one))(QKV, keys)
    fused = functools.partial(dot_product_attention, dropout_rate=0.3)
    check(mapped, jax.jit(jax.vmap(functools.partial(one, attention=fused)))(QKV, clone(keys)))


def test_vmap_over_rates_with_one_key():
    rates = jnp.array([0.0, 0.5, 1.0])

    def y(rate):
        return attention(*QKV, dropout_rng=clone(KEY), dropout_rate=rate, broadcast_dropout=False)

    mapped = jax.jit(jax.vmap(y))(rates)
    np.testing.assert_allclose(mapped[1], jax.jit(y)(rates[1]), rtol=2e-6, atol=2e-6)
    assert (mapped[2] == 0).all()
    assert not np.allclose(mapped[0], mapped[1], atol=1e-2)


def residuals(f):
    """Returns what the derivative of f keeps, as shapes."""
    return jax.tree.leaves(jax.eval_shape(lambda qkv: jax.vjp(f, qkv)[1], QKV))


def test_remat_draws_the_same_mask_and_may_save_the_output_by_name():
    def f(qkv):
        return loss(qkv, clone(KEY), broadcast_dropout=False)[0]

    expected = jax.jit(jax.grad(f))(QKV)
    check(jax.jit(jax.grad(jax.checkpoint(f)))(QKV), expected)
    policy = jax.checkpoint_policies.save_only_these_names("flax_spatialdrop")
    kept = residuals(jax.checkpoint(f, policy=policy))
    assert QKV[0].shape in [leaf.shape for leaf in kept[3:]]


def test_what_is_kept_for_backward_grows_with_the_length_alone():
    kept = residuals(lambda qkv: loss(qkv, clone(KEY))[1])
    assert max(leaf.size for leaf in kept) == QKV[0].size


def test_a_key_used_twice_is_caught():
    for options in ({"broadcast_dropout": False}, {"broadcast_dims": (-2,)}):
        key = jax.random.key(11)
        attention(*QKV, dropout_rng=key, **options)
        with pytest.raises(jax.errors.KeyReuseError):
            attention(*QKV, dropout_rng=key, **options)


def test_forward_mode_is_refused():
    f = functools.partial(loss, key=clone(KEY))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda qkv: f(qkv)[0], (QKV,), (QKV,))


def test_second_derivatives_are_those_of_fused_attention():
    def norm_of_gradient(qkv, attention):
        grads = jax.grad(lambda qkv: loss(qkv, clone(KEY), attention)[0])(qkv)
        return sum((g**2).sum() for g in grads)

    fused = functools.partial(dot_product_attention, dropout_rate=0.3)
    ours, theirs = (
        jax.jit(jax.grad(functools.partial(norm_of_gradient, attention=f)))(QKV)
        for f in (attention, fused)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_the_hessian_with_skipped_blocks_and_that_the_gradient_of_a_gradient_fails():
    q, k, v = (a[:1, :, :1, :4] for a in QKV)
    causal = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool))[None, None]

    def loss_of(attention, **options):
        return lambda scale: (attention(scale * q, k, v, **options) ** 2).sum()

    blocks = {"query_block_size": 2, "key_block_size": 2}
    ours = loss_of(blockwise_attention, is_causal=True, **blocks)
    expected = jax.hessian(loss_of(dot_product_attention, mask=causal))(1.5)
    assert abs(expected) > 1e-2
    np.testing.assert_allclose(jax.jit(jax.hessian(ours))(1.5), expected, rtol=1e-4)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(jax.grad(ours))(1.5)


def test_without_jit_for_debugging():
    qkv = tuple(a[:1, :3] for a in QKV)
    expected, _ = jax.jit(functools.partial(run, is_causal=True))(qkv, clone(KEY))
    with jax.disable_jit():
        _, y = loss(qkv, clone(KEY), is_causal=True)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"broadcast_dims": (-2,)}])
def test_inside_shard_map(options):
    """A key that is the same on every device draws the same mask on every device."""
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))

    def f(qkv, key, bias):
        y, (d_qkv, d_bias) = run(qkv, key, bias, **options)
        return y, d_qkv, d_bias

    specs = {"in_specs": (P("d"), P(), P()), "out_specs": (P("d"), P("d"), P())}
    mapped = jax.jit(jax.shard_map(f, mesh=mesh, **specs))(QKV, clone(KEY), BIAS)
    part = jax.jit(f)
    parts = [part(tuple(a[i : i + 1] for a in QKV), clone(KEY), BIAS) for i in range(4)]
    y, d_qkv, d_bias = jax.tree.map(lambda *p: jnp.concatenate(p), *parts)
    check(mapped, (y, d_qkv, d_bias.sum(0, keepdims=True)))


def compiled(attention, length, **options):
    """Compiles the gradient for inputs of [1, length, 2, 8]."""
    x = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    f = functools.partial(run, attention=attention, broadcast_dropout=False, **options)
    return jax.jit(f).lower((x, x, x), key).compile()


def test_memory_grows_with_the_length_and_not_with_its_square():
    blocks = {"query_block_size": 64, "key_block_size": 64, "is_causal": True}
    in_blocks = functools.partial(blockwise_attention, dropout_rate=0.1)
    whole = functools.partial(dot_product_attention, dropout_rate=0.1)

    def growth(attention, **options):
        short, long = (
            compiled(attention, n, **options).memory_analysis().temp_size_in_bytes
            for n in (512, 4096)
        )
        return long / short

    assert growth(in_blocks, **blocks) < 8.5
    assert growth(whole) > 40


def test_no_more_than_a_block_of_a_mask_is_hashed():
    text = compiled(attention, 512, query_block_size=32, key_block_size=64).as_text()
    assert max(sizes_of_words(text)) == 2 * 32 * 64


AXES = ("data", "model", "length")
SHARDED = {
    "weights": {"broadcast_dropout": False},
    "causal": {"broadcast_dropout": True, "is_causal": True},
    "keys": {"broadcast_dims": (-2,)},
    "spans": {"noise_shape": (None, 1, None, None), "span": 3},
}


@functools.cache
def on_one_device(form, masked):
    options = SHARDED[form] | ({"mask": PADDING} if masked else {})
    return jax.jit(functools.partial(run, **options))(QKV, clone(KEY), BIAS if masked else None)


def on_8_devices(mode, spec, form, masked, bias_spec=()):
    """Returns output, gradients and program; checks that the output is sharded as the queries."""
    mesh = jax.make_mesh((2, 2, 2), AXES, axis_types=(mode,) * 3)

    def put(array, *spec):
        return None if array is None else jax.device_put(array, NamedSharding(mesh, P(*spec)))

    with jax.set_mesh(mesh):
        qkv = put(QKV, *spec)
        key, bias = put(clone(KEY)), put(BIAS, *bias_spec) if masked else None
        mask = {"mask": put(PADDING, spec[0])} if masked else {}
        f = jax.jit(functools.partial(run, **SHARDED[form]))
        text = f.lower(qkv, key, bias, **mask).compile().as_text()
        y, grads = f(qkv, key, bias, **mask)
        if mode is AxisType.Explicit:
            assert y.sharding.is_equivalent_to(qkv[0].sharding, y.ndim)
    return (y, grads), text


MODES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("weights", "auto"),
        ("weights", "explicit"),
        ("causal", "explicit"),
        ("keys", "explicit"),
        ("spans", "auto"),
    ],
)
def test_batch_and_heads_on_devices_need_no_collective(form, mode):
    found, text = on_8_devices(MODES[mode], P("data", None, "model"), form, masked=False)
    assert not collectives(text)
    check(found, on_one_device(form, masked=False))


def test_a_bias_for_the_whole_batch_needs_the_sum_of_its_gradient_alone():
    spec, of_bias = P("data", None, "model"), P(None, "model")
    found, text = on_8_devices(AxisType.Explicit, spec, "weights", True, of_bias)
    assert set(collectives(text)) == {"all-reduce"}
    check(found, on_one_device("weights", masked=True))


@pytest.mark.parametrize(
    ("form", "mode", "masked"),
    [("causal", "auto", False), ("causal", "explicit", False), ("weights", "explicit", True)],
)
def test_queries_on_devices_have_the_same_mask(form, mode, masked):
    found, _ = on_8_devices(MODES[mode], P("data", "length", "model"), form, masked)
    check(found, on_one_device(form, masked))


@pytest.mark.parametrize(
    "specs",
    [(P("data"), P()), (P("data"), P("data", None, None, "model")), (P(None, "length"), P("data"))],
    ids=str,
)
def test_keys_and_values_that_lie_elsewhere_than_queries(specs):
    mesh = jax.make_mesh((2, 2, 2), AXES, axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        query, key, value = QKV
        qkv = tuple(
            jax.device_put(array, NamedSharding(mesh, spec))
            for array, spec in ((query, specs[0]), (key, P()), (value, specs[1]))
        )
        rng = jax.device_put(clone(KEY), NamedSharding(mesh, P()))
        bias = jax.device_put(BIAS, NamedSharding(mesh, P(None, None, None, "length")))
        options = SHARDED["weights"] | {"mask": PADDING}
        ours = jax.jit(functools.partial(run, **options))(qkv, rng, bias)
    check(ours, on_one_device("weights", masked=True))
