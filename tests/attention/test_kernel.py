"""The kernels of attention compute what XLA's blocks compute. Here they are interpreted.

test_kernel_on_tpu.py compiles them for TPUs.
"""

import math
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir
from jax.random import clone
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_spatialdrop import fast_key, mask_block, sample_mask
from flax_spatialdrop._apply import CHECKPOINT_NAME
from flax_spatialdrop._attention import blockwise, choice, flash, kernel, kernel_blocks
from flax_spatialdrop._attention.kernel_call import Call
from flax_spatialdrop._attention.tile import MaskSource, Operands, TilePlan
from flax_spatialdrop._attention.tiling import tile_axis
from flax_spatialdrop._ops.block_mask import Blocks
from flax_spatialdrop._random.mask import keep_threshold
from flax_spatialdrop._random.redraw import redraw_mask
from flax_spatialdrop._random.threefry import rounds_of
from flax_spatialdrop.linen import blockwise_attention

KEY = jax.random.key(8)
FAST = fast_key(jax.random.key(9))
PADDING = np.arange(512) < np.array([[300], [512]])[:, None, None]
FULL = jax.random.bernoulli(jax.random.key(4), 0.5, (1, 2, 256, 512))
BIAS = 3 * np.cos(np.arange(150 * 200, dtype=np.float32).reshape(150, 200))
DIAGONAL = np.eye(2, dtype=bool)[::-1].repeat(256, 0).repeat(512, 1)
STRIPES = (np.arange(512)[:, None] >= 256) & (np.arange(600) >= 512)
DOCUMENTS = np.arange(256) // np.array([[100], [256]])
SHORT = {"queries": 150, "keys": 200}
SQUARE = {"queries": 256, "keys": 256}


@pytest.fixture
def interpreted_kernels(monkeypatch):
    """Interprets the kernels; returns a list to which each run adds its name."""
    runs = []

    def run(way, *args):
        runs.append(way.__name__)
        return way(*args, interpret=True)

    for way in (kernel.forward, kernel.backward):
        monkeypatch.setattr(kernel, way.__name__, partial(run, way))
    return runs


@pytest.fixture
def small_blocks(monkeypatch, interpreted_kernels):
    """Interprets the kernels, in blocks of 128 to 512, with parts of 128 queries and 512 keys."""
    monkeypatch.setattr(kernel_blocks, "_QUERIES", 256)
    monkeypatch.setattr(kernel_blocks, "_FORWARD_KEYS", 256)
    monkeypatch.setattr(kernel_blocks, "_BACKWARD_KEYS", 256)
    monkeypatch.setattr(kernel_blocks, "_SHORT", 256)
    set_sizes_of_part(monkeypatch, 128, 512)
    monkeypatch.setattr(blockwise, "attend_by_shards", flash.attend)  # not jitted, so not cached


def set_sizes_of_part(monkeypatch, queries, columns):
    monkeypatch.setattr(kernel_blocks, "_sizes_of_part", lambda *_: (queries, columns))


def interpreted(calls, by_kernel, by_blocks, plan, x, *others):
    """The kernel's way, which `choice` takes on TPUs."""
    assert choice.fits(plan, x)
    calls.append(by_blocks.__name__)
    return by_kernel(plan, x, choice.first_places(x), *others)


def both_ways(monkeypatch, f, key, *args):
    """Returns the results of f by XLA's blocks and by the kernels."""
    by_blocks = jax.jit(lambda *args: f(*args))(clone(key), *args)
    calls = []
    with monkeypatch.context() as patched:
        patched.setattr(flash, "by_kernel_or_blocks", partial(interpreted, calls))
        by_kernel = jax.jit(lambda *args: f(*args))(clone(key), *args)
    assert calls == ["_forward_blocks", "_backward_blocks"]
    return by_blocks, by_kernel


def inputs(*, batch=1, heads=2, own=2, queries=256, keys=512, depth=64, features=64, dtype):
    """Returns query, key, value and weights of a loss."""
    shapes = (
        (batch, queries, heads, depth),
        (batch, keys, own, depth),
        (batch, keys, own, features),
        (batch, queries, heads, features),
    )
    parts = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(*each, dtype) for each in zip(parts, shapes, strict=True)]


CASES = {
    "no dropout": ({}, {"deterministic": True}),
    "lanes share a hash": ({}, {}),
    "rows share a hash": ({"keys": 384}, {}),
    "each weight has a hash": (SHORT, {}),
    "default key": (SHORT, {"dropout_rng": KEY}),
    "causal": ({"queries": 512, "batch": 2}, {"is_causal": True}),
    "window and cap": (SQUARE, {"window": (100, 20), "soft_cap": 2.0}),
    "grouped heads, traced rate": ({"heads": 4}, {"dropout_rate": jnp.float32(0.9)}),
    "padding": ({"batch": 2}, {"mask": PADDING}),
    "mask, shared draws": ({"batch": 2}, {"mask": FULL, "noise_shape": (None, 1, None, None)}),
    "mask of queries": (SHORT, {"mask": np.arange(150)[:, None] % 3 > 0}),
    "nothing visible": (SHORT, {"mask": np.arange(150)[:, None] + 0 * np.arange(200) < 100}),
    "segments": (SQUARE | {"batch": 2}, {"segment_ids": DOCUMENTS}),
    "traced rate of 0": ({}, {"dropout_rate": jnp.float32(0)}),
    "traced rate of 1": ({}, {"dropout_rate": jnp.float32(1)}),
    "segments hide tiles": (
        {"queries": 512, "keys": 1024},
        {"segment_ids": (np.arange(512) // 256, np.arange(1024) // 512)},
    ),
    "mask hides tiles": ({"queries": 512, "keys": 1024}, {"mask": DIAGONAL}),
    "mask hides tiles, spans": ({"queries": 512, "keys": 600}, {"mask": STRIPES, "span": 8}),
    "segments, padded": (SHORT, {"segment_ids": (np.arange(150) // 60, np.arange(200) // 80)}),
    "bias": (SHORT | {"batch": 2}, {"bias": 3 * np.cos(np.arange(200, dtype=np.float32))}),
    "bias of weights": (SHORT, {"bias": BIAS}),
    "bias of weights, bfloat16": (SHORT, {"bias": BIAS.astype(jnp.bfloat16)}),
    "spans": ({"keys": 600}, {"span": 8}),
    "spans, shared draws": (
        SQUARE | {"batch": 2},
        {"span": 3, "dropout_rng": KEY, "noise_shape": (None, 1, None, None)},
    ),
    "spans, causal, grouped heads": (
        {"queries": 384, "keys": 384, "heads": 4},
        {"span": 128, "is_causal": True, "dropout_rate": jnp.float32(0.5)},
    ),
    "spans, window": (SQUARE, {"span": 5, "window": (100, 20), "dropout_rate": 0.9}),
    "wide, bfloat16": (SQUARE | {"depth": 256, "features": 128, "dtype": jnp.bfloat16}, {}),
}


LONG_CASES = {  # and the keys of a tile that are used at once
    "lanes share a hash": ({"keys": 2048}, {}, 512),
    "lanes share a hash, two spans": ({"keys": 2048}, {}, 1024),
    "rows share a hash": ({"keys": 1280}, {}, 512),  # two tiles of 512 + 128 keys
    "default key": ({"queries": 300, "keys": 1201}, {"dropout_rng": KEY}, 512),
    "spans, causal": ({"keys": 1280}, {"span": 100, "is_causal": True}, 512),
    "spans, window": ({"keys": 1280}, {"span": 100, "window": (None, 1000)}, 512),
}

WHOLE_CASES = {
    "no dropout, padded": ({"queries": 130, "keys": 1100}, {"deterministic": True}),
    "no dropout, causal, padded": (
        {"queries": 700, "keys": 700},
        {"deterministic": True, "is_causal": True},
    ),
    "lanes share a hash, window": ({"queries": 300, "keys": 1024}, {"window": (None, 900)}),
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_blocks(monkeypatch, name):
    check_values_and_gradients(monkeypatch, *CASES[name])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", LONG_CASES)
def test_a_tile_may_have_more_keys_than_are_used_at_once(monkeypatch, name):
    *case, columns = LONG_CASES[name]
    for constant in ("_FORWARD_KEYS", "_BACKWARD_KEYS", "_SHORT"):
        monkeypatch.setattr(kernel_blocks, constant, 1024)
    set_sizes_of_part(monkeypatch, 128, columns)
    check_values_and_gradients(monkeypatch, *case)


@pytest.mark.usefixtures("interpreted_kernels")
@pytest.mark.parametrize("name", WHOLE_CASES)
def test_blocks_and_parts_as_users_have_them(monkeypatch, name):
    monkeypatch.setattr(blockwise, "attend_by_shards", flash.attend)  # not jitted, so not cached
    check_values_and_gradients(monkeypatch, *WHOLE_CASES[name])


@pytest.mark.parametrize("by_key", [False, True])
@pytest.mark.parametrize("window", [(None, None), (None, 0)], ids=["plain", "causal"])
@pytest.mark.parametrize("draw", ["none", "fast", "default", "spans"])
@pytest.mark.parametrize("length", [130, 200, 1000, 1100, 2048, 5000])
def test_how_a_tile_is_divided(length, draw, window, by_key):
    q, k, v, _ = inputs(queries=length, keys=length, dtype=jnp.float32)
    source = None
    if draw != "none":
        spans = Blocks((1, 2, length, length), (3,), (8 if draw == "spans" else 1,), 3)
        rounds = 13 if draw == "fast" else 20
        source = MaskSource(jnp.zeros(2, np.uint32), np.uint32(0), rounds, spans)
    plan = TilePlan(tile_axis(length, 512), tile_axis(length, 512), window, None, None)
    x = Operands(q, k, v, None, None, None, source, None, None)
    tiles = kernel_blocks.tiles_of(plan, x, by_key)
    starts = [columns.start for columns in tiles.columns]
    stops = [columns.stop for columns in tiles.columns]
    assert starts == [0, *stops[:-1]]
    assert stops[-1] == tiles.keys.size
    assert not any(stop % 128 for stop in stops)
    assert tiles.parts * tiles.part_size == tiles.queries.size
    assert tiles.part_size % 128 == 0


def check_values_and_gradients(monkeypatch, sizes, options):
    sizes, options = {"dtype": jnp.float32} | sizes, dict(options)
    *qkv, weights = inputs(**sizes)
    bias = options.pop("bias", None)
    key = options.pop("dropout_rng", FAST)
    given = {"dropout_rate": 0.1, "deterministic": False, "broadcast_dropout": False} | options

    def f(key, qkv, bias):
        def loss(qkv, bias):
            y = blockwise_attention(*qkv, bias=bias, dropout_rng=key, **given)
            return (y * weights).astype(jnp.float32).sum(), y

        (_, y), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(qkv, bias)
        return y, grads

    ours, theirs = both_ways(monkeypatch, f, key, qkv, bias)
    for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert mine.dtype == other.dtype
        tolerance = 2e-6 if mine.dtype == jnp.float32 else 1e-2
        mine, other = (np.asarray(each, np.float32) for each in (mine, other))
        np.testing.assert_allclose(mine, other, atol=tolerance * np.abs(other).max())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("options", [{"is_causal": True}, {"window": (10, 10)}])
def test_the_gradient_of_many_queries_takes_several_kernels(monkeypatch, options):
    """Each kernel has 512 of 1,100 queries. In most of them some keys are out of reach."""
    monkeypatch.setattr(kernel, "_MOST_RESIDENT", 2 * 256 * 64)
    runs, run = [], Call.run

    def noted(call, *args, query_blocks=None, **kwargs):
        runs.append(query_blocks)
        return run(call, *args, query_blocks=query_blocks, **kwargs)

    monkeypatch.setattr(Call, "run", noted)
    sizes = {"queries": 1100, "keys": 600, "own": 1}
    monkeypatch.setitem(CASES, "many queries", (sizes, options))
    test_values_and_gradients_are_those_of_the_blocks(monkeypatch, "many queries")
    assert runs == [None, range(0, 2), range(2, 4), range(4, 6)]


def values_with_bits(keys):
    """Values of which 64 features add up the bits of 8 weights each."""
    places, values = np.arange(keys), np.zeros((1, keys, 1, 64), np.float32)
    values[0, places, 0, places // 8] = 2.0 ** (places % 8)
    return values


def mask_in(y, keys, scale=1):
    """The mask in outputs of `values_with_bits` from weights that are all scale / keys."""
    found = np.rint(np.asarray(y)[0, :, 0] * keys / scale).astype(np.uint8)
    return np.unpackbits(found, axis=1, bitorder="little")[:, :keys].astype(bool)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("key", "keys"), [(FAST, 512), (FAST, 384), (FAST, 200), (KEY, 200)])
def test_the_mask_is_that_of_the_key(monkeypatch, key, keys):
    q, k, _, _ = inputs(queries=160, keys=keys, heads=1, own=1, dtype=jnp.float32)

    def f(key, q, k, value):
        given = {"dropout_rate": 0.5, "deterministic": False}
        y, pull = jax.vjp(lambda v: blockwise_attention(q, k, v, dropout_rng=key, **given), value)
        return y, pull(y)

    _, (y, _) = both_ways(monkeypatch, f, key, 0 * q, 0 * k, values_with_bits(keys))
    np.testing.assert_array_equal(mask_in(y, keys, 2), sample_mask(clone(key), 0.5, (160, keys)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("key", [FAST, KEY], ids=["fast", "default"])
def test_the_mask_of_positions_that_need_two_words(key):
    """The low word of the position wraps around inside of this head."""
    noise_shape, head = (50000, 1, 256, 384), 43690
    mask = mask_of_kernel(key, noise_shape, head, span=1, keep=0.5)
    expected = mask_block(key, 0.5, noise_shape, (head, 0, 0, 0), (1, 1, 256, 384))[0, 0]
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("key", [FAST, KEY], ids=["fast", "default"])
@pytest.mark.parametrize(
    ("span", "noise_shape", "head"),
    [
        (2, (1, 1, 160, 384), 0),
        (7, (2, 1, 130, 501), 1),
        (100, (1, 1, 128, 300), 0),
        (128, (1, 1, 128, 129), 0),
        (128, (1, 1, 256, 512), 0),
        (8, (50000, 1, 256, 384), 44501),  # the low word of the position wraps around
    ],
)
def test_the_mask_of_spans(monkeypatch, key, span, noise_shape, head):
    """It is False on each whole span that begins at a seed."""
    set_sizes_of_part(monkeypatch, 256, 512)  # so that all bits of a word are seeds
    *_, queries, keys = noise_shape
    seeds = keys - span + 1
    keep = 1 - 0.3 / min(span, seeds)
    mask = mask_of_kernel(key, noise_shape, head, span, keep)
    words, threshold = jax.random.key_data(key), keep_threshold(np.float32(keep))
    like, start = jnp.zeros((1, 1, queries, seeds)), (np.uint32(head), *[np.uint32(0)] * 3)
    seed_shape = (*noise_shape[:-1], seeds)
    no_seed = redraw_mask(words, rounds_of(key), threshold, like, start, seed_shape, seeds=True)
    expected = np.ones((queries, keys), bool)
    for query, first in np.argwhere(~np.asarray(no_seed[0, 0])):
        expected[query, first : first + span] = False
    assert 0.2 < expected.mean() < 0.95
    np.testing.assert_array_equal(mask, expected)


def mask_of_kernel(key, noise_shape, head, span, keep):
    """The mask that the forward kernel draws for a head; `keep` is the probability of no seed."""
    *_, queries, keys = noise_shape
    spans = Blocks(noise_shape, axes=(3,), sizes=(span,), batch_dims=3)
    words, threshold = jax.random.key_data(key), keep_threshold(np.float32(keep))
    source = MaskSource(words, threshold, rounds_of(key), spans)
    q, k, _, _ = inputs(queries=queries, keys=keys, heads=1, own=1, dtype=jnp.float32)
    value = values_with_bits(keys)
    x = Operands(0 * q, 0 * k, value, None, None, None, source, None, None)
    plan = TilePlan(tile_axis(queries, 256), tile_axis(keys, 384), (None, None), None, None)
    high, low = divmod(head * math.prod(spans.seed_shape[1:]), 2**32)
    places = tuple(jnp.full((1, 1), word, np.uint32) for word in (high, low))
    y, _ = jax.jit(lambda x, places: kernel.forward(plan, x, places))(x, places)
    return mask_in(y, keys)


def test_other_platforms_take_the_blocks_and_every_derivative():
    """The choice is one operation; vmap, the forward mode and second derivatives go through it."""
    q, k, v, weights = inputs(queries=128, keys=128, dtype=jnp.float32)

    def f(q, attention=blockwise_attention):
        return (attention(q, k, v, deterministic=True) * weights).sum()

    jaxpr = str(jax.make_jaxpr(jax.grad(f))(q))
    assert jaxpr.count("attention_pass[") == 2
    by_jax = partial(f, attention=lambda q, k, v, **_: jax.nn.dot_product_attention(q, k, v))
    second = [jax.grad(lambda q, f=f: (jax.grad(f)(q) ** 2).sum()) for f in (f, by_jax)]
    np.testing.assert_allclose(*(g(q) for g in second), atol=1e-5)
    stacked = jnp.stack([q, 2 * q])
    mapped = jax.vmap(jax.grad(f))(stacked)
    np.testing.assert_allclose(mapped, [jax.grad(f)(each) for each in stacked], atol=1e-6)


def test_the_backward_pass_keeps_outputs_and_log_sums_by_their_name():
    """With a policy that saves by name, the forward pass runs once."""
    q, k, v, _ = inputs(queries=128, keys=128, dtype=jnp.float32)
    policy = jax.checkpoint_policies.save_only_these_names(CHECKPOINT_NAME)
    f = jax.checkpoint(
        lambda q: blockwise_attention(q, k, v, deterministic=True).sum(), policy=policy
    )
    assert str(jax.make_jaxpr(jax.grad(f))(q)).count("attention_pass[") == 2


def loss_and_gradients(key, qkv):
    """Of a loss with dropout."""

    def loss(qkv):
        given = {"dropout_rate": 0.5, "broadcast_dropout": False, "deterministic": False}
        y = blockwise_attention(*qkv, dropout_rng=fast_key(key), **given)
        return jnp.square(y).sum()

    return jax.value_and_grad(loss)(qkv)


def on_mesh(kind, spec, qkv):
    """`loss_and_gradients` of inputs that are sharded over two devices."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(array, NamedSharding(mesh, spec)) for array in qkv]
        return jax.jit(loss_and_gradients)(clone(KEY), sharded)


def assert_close(found, expected):
    for mine, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [P("x"), P(None, "x"), P(None, None, "x")])
def test_meshes_of_shapes_that_fit(kind, spec):
    """On CPUs the choice is the blocks; on TPUs it is made after this tracing and batching."""
    *qkv, _ = inputs(batch=2, queries=128, keys=128, dtype=jnp.float32)
    assert_close(on_mesh(kind, spec, qkv), loss_and_gradients(clone(KEY), qkv))


@contextmanager
def cpus_choose_as_tpus():
    """CPUs run the kernels where TPUs do."""
    mlir.register_lowering(choice._pass, choice._lower_for_tpu, platform="cpu")
    jax.clear_caches()
    try:
        yield
    finally:
        mlir.register_lowering(choice._pass, choice._lower, platform="cpu")
        jax.clear_caches()


@pytest.mark.parametrize("spec", [P("x"), P(None, None, "x")])
def test_each_device_runs_the_kernels_on_its_part(monkeypatch, interpreted_kernels, spec):
    *qkv, _ = inputs(batch=2, queries=128, keys=128, dtype=jnp.float32)
    expected = loss_and_gradients(clone(KEY), qkv)
    # The operations of an interpreted kernel do not pass the checks of a shard_map.
    monkeypatch.setattr(jax, "shard_map", partial(jax.shard_map, check_vma=False))
    with cpus_choose_as_tpus():
        found = on_mesh(AxisType.Explicit, spec, qkv)
    assert_close(found, expected)
    assert interpreted_kernels == ["forward", "backward"]


def test_kernels_under_vmap(interpreted_kernels):
    *qkv, _ = inputs(batch=2, queries=128, keys=128, dtype=jnp.float32)
    keys, stacked = jax.random.split(clone(KEY)), [jnp.stack([x, 2 * x]) for x in qkv]
    f = jax.jit(jax.vmap(loss_and_gradients))
    expected = f(clone(keys), stacked)
    with cpus_choose_as_tpus():
        found = f(clone(keys), stacked)
    assert_close(found, expected)
    assert interpreted_kernels == ["forward", "backward"]


def test_shard_map_of_shapes_that_fit():
    q, k, v, _ = inputs(batch=2, queries=128, keys=128, dtype=jnp.float32)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))

    def f(q, k, v):
        return blockwise_attention(q, k, v, deterministic=True)

    mapped = jax.shard_map(f, mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    grads = (jax.jit(jax.grad(lambda q, g=g: (g(q, k, v) ** 2).sum()))(q) for g in (mapped, f))
    np.testing.assert_allclose(*grads, atol=1e-5)


def kernels_in_program_for_tpu(f, *args):
    lowered = jax.jit(f).trace(*args).lower(lowering_platforms=("tpu",))
    return lowered.as_text().count("tpu_custom_call")


@pytest.mark.parametrize(
    ("kind", "spec", "number"),
    [
        (None, None, 1),
        (AxisType.Auto, P("x"), 0),
        (AxisType.Explicit, P("x"), 1),
        (AxisType.Explicit, P(None, None, "x"), 1),
        (AxisType.Explicit, P(None, "x"), 0),
    ],
)
def test_the_choice_of_a_program_for_tpus(kind, spec, number):
    """A kernel runs where XLA need not partition it. Nothing is compiled here."""
    q = jax.ShapeDtypeStruct((2, 128, 2, 64), jnp.float32)
    f = partial(blockwise_attention, deterministic=True)
    if kind is None:
        assert kernels_in_program_for_tpu(f, q, q, q) == number
        mapped = jax.vmap(f, (0, None, 0))
        assert kernels_in_program_for_tpu(mapped, q, jax.typeof(jnp.zeros(q.shape[1:])), q) == 1
        return
    mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        q = jax.ShapeDtypeStruct(q.shape, q.dtype, sharding=NamedSharding(mesh, spec))
        assert kernels_in_program_for_tpu(f, q, q, q) == number


def test_small_chips_take_the_blocks(monkeypatch):
    q = jax.ShapeDtypeStruct((1, 128, 1, 64), jnp.float32)
    f = partial(blockwise_attention, deterministic=True)
    for kind, number in {"TPU v4": 0, "TPU v5 lite": 1}.items():
        monkeypatch.setattr(jax, "devices", lambda kind=kind: [SimpleNamespace(device_kind=kind)])
        jax.clear_caches()
        assert kernels_in_program_for_tpu(f, q, q, q) == number


def test_inside_of_a_shard_map_a_kernel_runs():
    q = jax.ShapeDtypeStruct((2, 128, 2, 64), jnp.float32)
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    f = partial(blockwise_attention, deterministic=True)
    mapped = jax.shard_map(f, mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    assert kernels_in_program_for_tpu(mapped, q, q, q) == 1


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 128, 2, 32), {}),
        ((2, 64, 2, 64), {}),
        ((1, 2**19 + 128, 1, 64), {"window": 100}),
        ((1, 2**18 + 2**13, 1, 64), {}),
        ((1, 2**16 + 128, 1, 64), {"dropout_rng": FAST, "deterministic": False}),
        ((2, 128, 2, 64), {"precision": "high"}),
        ((2, 256, 2, 64), {"span": 129, "dropout_rng": KEY, "deterministic": False}),
    ],
)
def test_what_does_not_fit_takes_the_blocks(shape, options):
    assert not takes_kernels(shape, options)


@pytest.mark.parametrize(
    ("precision", "number"), [("high", 0), ("BF16_BF16_F32_X3", 0), ("float32", 1)]
)
def test_the_default_precision_of_jax(precision, number):
    """It is that of the call, and not that of the time when the kernels are lowered."""
    q = jax.ShapeDtypeStruct((1, 128, 1, 64), jnp.float32)
    f = jax.jit(partial(blockwise_attention, deterministic=True))
    before = f.trace(q, q, q)
    with jax.default_matmul_precision(precision):
        assert kernels_in_program_for_tpu(f, q, q, q) == number
        before.lower(lowering_platforms=("tpu",))


def test_the_longest_with_dropout():
    assert takes_kernels((1, 2**16, 1, 64), {"dropout_rng": FAST, "deterministic": False})


@pytest.mark.parametrize("options", [{"window": 1000}, {"window": (1000, 0), "is_causal": True}])
def test_very_long_sequences_fit_with_a_window(options):
    """The tables of their steps are short enough, and the gradient of queries is in pieces."""
    assert takes_kernels((1, 2**18, 1, 128), options)


def takes_kernels(shape, options):
    q = jax.ShapeDtypeStruct(shape, jnp.float32)
    given = {"deterministic": True, "dropout_rate": 0.5, "broadcast_dropout": False} | options
    jaxpr = jax.make_jaxpr(lambda q: blockwise_attention(q, q, q, **given))(q)
    return "attention_pass" in str(jaxpr)
