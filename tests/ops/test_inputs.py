"""Condition and modality dropout: what is dropped, by which law, and what becomes of it."""

import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict
from flax.errors import InvalidRngError
from jax.random import clone
from scipy import stats

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import (
    condition_dropout,
    modality_dropout,
    rate_of_each,
    sample_mask,
    scale_rates,
)

from ..catalogue import FACES
from ..errors import exactly

KEY = jax.random.key(7)
RANDOM = np.random.default_rng(0)
LABELS = jnp.asarray(RANDOM.integers(0, 10, 8), jnp.int32)
VECTORS = jnp.asarray(RANDOM.normal(size=(8, 3, 2)), jnp.float32)
TREE = {"label": LABELS, "text": (VECTORS, jnp.ones((8, 3), bool))}
NULLS = {"label": 10, "text": (jnp.arange(2.0), False)}
INPUTS = {"image": VECTORS, "audio": (LABELS, VECTORS[:, 0]), "text": VECTORS[:, :, 0] > 0}
RATES = {"image": 0.75, "audio": 0.5, "text": 0.875}

each_face = pytest.mark.parametrize("face", FACES)


def condition_of(face, **options):
    """Returns condition dropout as f(key, condition, rate, null, mask=None)."""
    if face == "function":
        return lambda key, x, rate, null, mask=None: condition_dropout(
            key, x, rate, null=null, mask=mask, **options
        )
    layer = getattr(flax_spatialdrop, face).ConditionDropout(None, **options)
    if face == "linen":
        return lambda key, x, rate, null, mask=None: layer.apply(
            {}, x, False, key, rate=rate, null=null, mask=mask
        )
    return lambda key, x, rate, null, mask=None: layer(x, rngs=key, rate=rate, null=null, mask=mask)


def modality_of(face, **options):
    """Returns modality dropout as f(key, inputs, rate, mask=None)."""
    if face == "function":
        return lambda key, x, rate, mask=None: modality_dropout(key, x, rate, mask=mask, **options)
    layer = getattr(flax_spatialdrop, face).ModalityDropout(None, **options)
    if face == "linen":
        return lambda key, x, rate, mask=None: layer.apply({}, x, False, key, rate=rate, mask=mask)
    return lambda key, x, rate, mask=None: layer(x, rngs=key, rate=rate, mask=mask)


def replaced(mask, x, null):
    mask = np.expand_dims(np.asarray(mask), tuple(range(np.ndim(mask), x.ndim)))
    return np.where(mask, x, np.asarray(null, x.dtype))


def assert_equal(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)
    assert [x.dtype for x in jax.tree.leaves(tree)] == [x.dtype for x in jax.tree.leaves(expected)]


def named_key(name):
    return jax.random.fold_in(clone(KEY), zlib.crc32(name.encode()))


def replaced_by_name(masks):
    """Returns the condition TREE with NULLS where the masks are False."""
    null = jax.tree.broadcast(NULLS, TREE)
    return {
        name: jax.tree.map(lambda x, n: replaced(masks[name], x, n), TREE[name], null[name])  # noqa: B023
        for name in TREE
    }


@each_face
def test_all_conditions_of_a_sample_share_the_draw_of_sample_mask(face):
    mask = sample_mask(clone(KEY), 0.5, (8,))
    assert 0 < mask.sum() < 8
    f = condition_of(face)
    expected = replaced_by_name(dict.fromkeys(TREE, mask))
    assert_equal(f(clone(KEY), TREE, 0.5, NULLS), expected)
    traced = jax.jit(lambda key, rate: f(key, TREE, rate, NULLS))(clone(KEY), jnp.float32(0.5))
    assert_equal(traced, expected)


@each_face
def test_each_condition_has_a_draw_of_its_own_that_its_name_decides(face):
    rates = {"label": 0.25, "text": 0.5}
    masks = {name: sample_mask(named_key(name), rate, (8,)) for name, rate in rates.items()}
    f = condition_of(face, joint=False)
    assert_equal(f(clone(KEY), TREE, rates, NULLS), replaced_by_name(masks))
    alone = f(clone(KEY), {"text": TREE["text"]}, 0.5, {"text": NULLS["text"]})
    assert_equal(alone["text"], replaced_by_name(masks)["text"])


@each_face
def test_a_mask_forces_the_choice_at_any_rate_without_a_key(face):
    mask = jnp.arange(8) % 3 > 0
    for rate in (0.0, 0.5, 1.0, jnp.float32(0.5)):
        y = condition_of(face)(None, LABELS, rate, 10, mask)
        np.testing.assert_array_equal(y, replaced(mask, LABELS, 10))
    masks = {"label": mask, "text": ~mask}
    y = condition_of(face, joint=False)(None, TREE, 0.5, NULLS, masks)
    assert_equal(y, replaced_by_name(masks))
    masks = {"image": mask, "audio": ~mask, "text": mask & False}
    y, presence = modality_of(face)(None, INPUTS, 0.5, masks)
    assert_equal(presence, masks)
    assert_equal(y["audio"], jax.tree.map(lambda x: replaced(~mask, x, 0), INPUTS["audio"]))
    np.testing.assert_array_equal(y["text"], False)


def test_a_mask_counts_in_a_deterministic_module_too():
    mask = jnp.arange(8) > 3
    layer = flax_spatialdrop.linen.ConditionDropout(0.5, null=10)
    np.testing.assert_array_equal(
        layer.apply({}, LABELS, True, mask=mask), replaced(mask, LABELS, 10)
    )
    assert layer.apply({}, LABELS, True) is LABELS
    its_twin = flax_spatialdrop.nnx.ModalityDropout(0.5, rngs=nnx.Rngs(0))
    its_twin.eval()
    y, presence = its_twin({"a": VECTORS, "b": LABELS}, mask=mask)
    np.testing.assert_array_equal(y["b"], replaced(mask, LABELS, 0))
    y, presence = its_twin({"a": VECTORS, "b": LABELS})
    assert y["a"] is VECTORS
    assert presence["a"].all()
    assert presence["b"].all()


def test_modules_keep_rates_and_nulls_by_name():
    options = {"null": {"a": 10, "b": 11}, "joint": False}
    x, rates = {"a": LABELS, "b": LABELS}, {"a": 0.5, "b": 0.25}
    expected = condition_dropout(clone(KEY), x, rates, **options)
    linen = flax_spatialdrop.linen.ConditionDropout(rates, **options)
    assert_equal(linen.apply({}, x, False, clone(KEY)), expected)
    masks = linen.apply({}, x, False, clone(KEY), method="sample_mask")
    assert_equal(masks, {name: expected[name] == x[name] for name in x})
    its_twin = flax_spatialdrop.nnx.ConditionDropout(rates, **options)
    assert jax.tree.leaves(nnx.state(its_twin)) == []
    y = nnx.jit(lambda layer, x, key: layer(x, rngs=key))(its_twin, x, clone(KEY))
    assert_equal(y, expected)
    assert_equal(its_twin.sample_mask(x, rngs=clone(KEY)), masks)


@pytest.mark.parametrize(
    ("null", "x", "expected"),
    [
        (np.array([0, 7]), RANDOM.integers(0, 9, (8, 2)), np.array([0, 7])),
        ([0, 1], [LABELS, LABELS], [0, 1]),
        ({"a": [0, (1, 2)]}, {"a": (LABELS, [LABELS, LABELS])}, {"a": (0, [1, 2])}),
        (FrozenDict(a=0), FrozenDict(a=LABELS), FrozenDict(a=0)),
        ({"a": {"b": 1}}, {"a": FrozenDict(b=LABELS)}, {"a": FrozenDict(b=1)}),
    ],
    ids=["array", "list", "nested", "frozen", "frozen-below"],
)
def test_a_null_that_a_module_freezes_fits_as_in_the_function(null, x, expected):
    mask = jnp.zeros(8, bool)
    expected = jax.tree.map(lambda x, null: replaced(mask, x, null).astype(x.dtype), x, expected)
    for found in (
        condition_dropout(None, x, 0.5, null=null, mask=mask),
        flax_spatialdrop.linen.ConditionDropout(0.5, null=null).apply({}, x, True, mask=mask),
        nnx.jit(lambda layer, x: layer(x, mask=mask))(
            flax_spatialdrop.nnx.ConditionDropout(0.5, null=null), x
        ),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_scale_multiplies_the_rate_of_each_name():
    layer = flax_spatialdrop.nnx.ModalityDropout({"a": 0.5, "b": 1.0})
    x = {"a": LABELS, "b": LABELS}
    with scale_rates(0.5):
        found = layer(x, rngs=clone(KEY))
    assert_equal(found, modality_dropout(clone(KEY), x, {"a": 0.25, "b": 0.5}))


@pytest.mark.parametrize("face", FACES[1:])
def test_keep_one_is_checked_at_the_scaled_rates_where_masks_are_drawn(face):
    x, mask = {"a": LABELS, "b": LABELS}, jnp.ones(8, bool)
    f = modality_of(face)
    assert f(None, x, 1.0, mask)[0].keys() == x.keys()
    with scale_rates(0.5):
        assert_equal(f(clone(KEY), x, 1.0), modality_dropout(clone(KEY), x, 0.5))
    for rate, message in (
        (
            {"a": 0.5, "b": 0.5},
            "rate must be below 1 for at least one modality if keep_one=True: "
            "got a rate of 1 for 'a', 'b', since scale_rates multiplies it by 2.0",
        ),
        (
            {"a": 0.5, "b": 0.75},
            "rate['b'] is the probability to drop and must be in [0, 1]: got rate['b']=1.5, "
            "since scale_rates multiplies it by 2.0",
        ),
    ):
        with scale_rates(2), pytest.raises(ValueError, match=exactly(message)):
            f(clone(KEY), x, rate)


def test_a_rate_of_1_is_not_refused_where_nothing_is_drawn():
    x, mask = {"a": LABELS, "b": LABELS}, jnp.ones(8, bool)
    assert modality_dropout(None, x, 1.0, mask=mask)[1]["a"].all()
    y, presence = flax_spatialdrop.nnx.ModalityDropout(1.0, deterministic=True)(x)
    assert y["a"] is LABELS
    layer = flax_spatialdrop.linen.ModalityDropout(1.0, deterministic=True)
    assert_equal(layer.apply({}, x), (y, presence))
    assert_equal(layer.apply({}, x, method="sample_mask"), presence)


def reference(rates, keep_one=True):
    """Returns the presence of 8 samples, computed by NumPy one modality after the other."""
    names, some = sorted(rates), np.zeros(8, bool)
    found = {}
    for i, name in enumerate(names):
        none_later = np.prod([rates[n] for n in names[i:]])
        first = (1 - rates[name]) / (1 - none_later) if keep_one else 1 - rates[name]
        keep = np.where(some, 1 - rates[name], first).astype(np.float32)
        found[name] = np.asarray(jax.random.uniform(named_key(name), (8,))) < keep
        some |= found[name]
    return found


@each_face
@pytest.mark.parametrize("keep_one", [True, False])
def test_presence_is_that_of_the_reference(face, keep_one):
    f = modality_of(face, keep_one=keep_one)
    y, presence = f(clone(KEY), INPUTS, RATES)
    assert [*y] == [*presence] == [*INPUTS]
    expected = reference(RATES, keep_one)
    assert_equal(presence, {name: expected[name] for name in INPUTS})
    for name, x in INPUTS.items():
        assert_equal(y[name], jax.tree.map(lambda x: replaced(presence[name], x, 0), x))  # noqa: B023
    shuffled = {name: INPUTS[name] for name in ("text", "audio", "image")}
    rates = {name: jnp.float32(rate) for name, rate in RATES.items()}
    traced = jax.jit(lambda key, rates: f(key, shuffled, rates)[1])(clone(KEY), rates)
    assert_equal(traced, presence)
    if keep_one:
        assert all(np.any([*presence.values()], axis=0))


def test_the_law_is_that_of_independent_draws_given_that_one_is_kept():
    """Counts the 8 patterns of 1e5 samples, and the marginal rates, with false alarms at 1e-9."""
    samples, rates = 100_000, [0.5, 0.8, 0.9]
    inputs = {name: jnp.zeros(samples) for name in "abc"}
    _, presence = jax.jit(modality_dropout)(
        clone(KEY), inputs, dict(zip("abc", map(jnp.float32, rates), strict=True))
    )
    masks = np.stack([presence[name] for name in "abc"])
    none = np.prod(rates)
    bounds = [stats.binom.interval(1 - 1e-9 / 11, samples, (r - none) / (1 - none)) for r in rates]
    for mask, (low, high) in zip(masks, bounds, strict=True):
        assert low <= (~mask).sum() <= high
    counts = np.bincount(masks.T @ [4, 2, 1], minlength=8)
    for pattern in itertools.product([0, 1], repeat=3):
        count = counts[np.dot(pattern, [4, 2, 1])]
        chance = np.prod([r if not kept else 1 - r for r, kept in zip(rates, pattern, strict=True)])
        chance = chance / (1 - none) if any(pattern) else 0
        low, high = stats.binom.interval(1 - 1e-9 / 11, samples, chance)
        assert low <= count <= high


def test_traced_rates_of_1_keep_one_modality_each_as_likely():
    """The limit of equal rates; 1e5 samples, with false alarms at 1e-9."""
    inputs = {name: jnp.zeros(100_000) for name in "abc"}
    for rate in (1.0, jnp.nan, 1 - 2**-24):
        _, presence = modality_dropout(clone(KEY), inputs, jnp.float32(rate))
        masks = np.stack([*presence.values()])
        assert masks.any(axis=0).all()
        assert (masks.sum(axis=0) == 1).mean() > 0.999
        low, high = stats.binom.interval(1 - 1e-9 / 9, 100_000, 1 / 3)
        assert ((low <= masks.sum(axis=1)) & (masks.sum(axis=1) <= high)).all()


def test_known_rates_of_0_and_1():
    for rates, expected in (({"a": 1.0, "b": 0.0}, (0, 1)), ({"a": 0.0, "b": 1.0}, (1, 0))):
        _, presence = modality_dropout(None, {"a": LABELS, "b": VECTORS}, rates)
        for name, kept in zip("ab", expected, strict=True):
            np.testing.assert_array_equal(presence[name], bool(kept))
    _, presence = modality_dropout(None, {"a": LABELS}, 1.0, keep_one=False)
    assert not presence["a"].any()
    _, presence = modality_dropout(clone(KEY), {"a": LABELS}, 0.9)  # the only one is never dropped
    assert presence["a"].all()
    np.testing.assert_array_equal(condition_dropout(None, LABELS, 1.0, null=10), 10)
    assert condition_dropout(None, LABELS, 0.0, null=10) is LABELS
    tree = condition_dropout(None, TREE, 0.0, null=NULLS)
    assert all(map(lambda a, b: a is b, jax.tree.leaves(tree), jax.tree.leaves(TREE)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64"])
def test_gradients_go_to_the_condition_where_kept_and_else_to_null(dtype):
    mask = sample_mask(clone(KEY), 0.5, (8,))
    number = np.where(mask, 1.0, np.nan)[:, None, None]  # what is dropped is NaN
    x = (VECTORS * number).astype(dtype)
    null = jnp.arange(2, dtype=jnp.complex64 if dtype == "complex64" else jnp.float32)

    def f(x, null, rate):
        return condition_dropout(clone(KEY), x, rate, null=null)

    for rate in (0.5, jnp.float32(0.5)):
        y, pullback = jax.vjp(f, x, null, rate)
        assert y.dtype == dtype
        assert bool(jnp.isfinite(y).all())
        ct = jnp.where(mask[:, None, None], jnp.ones_like(y), 2 * jnp.ones_like(y))
        dx, dnull, _ = pullback(ct)
        np.testing.assert_array_equal(dx, replaced(mask, np.ones(x.shape, dtype), 0))
        assert dnull.dtype == null.dtype
        np.testing.assert_array_equal(dnull, np.full(2, 2 * 3 * (8 - mask.sum())))


def test_the_gradient_of_null_is_a_sum_in_its_own_precision():
    x, mask = jnp.zeros((1001, 1), jnp.bfloat16), jnp.zeros(1001, bool)
    dnull = jax.grad(
        lambda null: condition_dropout(None, x, 0.5, null=null, mask=mask).astype(jnp.float32).sum()
    )(jnp.zeros(1))
    np.testing.assert_array_equal(dnull, 1001)  # which bfloat16 cannot represent


def test_modalities_have_gradients_where_kept_and_nothing_leaks():
    _, presence = modality_dropout(clone(KEY), INPUTS, RATES)
    x = jnp.where(presence["image"][:, None, None], VECTORS, np.float32(np.nan))
    y, pullback = jax.vjp(
        lambda x: modality_dropout(clone(KEY), INPUTS | {"image": x}, RATES)[0]["image"], x
    )
    assert bool(jnp.isfinite(y).all())
    dx = pullback(jnp.where(jnp.isnan(x), np.float32(np.nan), np.float32(1)))[0]
    np.testing.assert_array_equal(dx, replaced(presence["image"], np.ones_like(x), 0))


def test_backward_keeps_one_bool_per_sample_and_draw():
    def kept(f, *args):
        return {(r.dtype.name, r.shape) for r in jax.tree.leaves(jax.vjp(f, *args)[1])}

    arrays = {"a": VECTORS, "b": VECTORS[:, 0]}
    f = jax.vjp(lambda x, n: condition_dropout(clone(KEY), x, 0.5, null=n), arrays, jnp.ones(2))
    (mask,) = {id(r): r for r in jax.tree.leaves(f[1])}.values()
    assert (mask.dtype, mask.shape) == (jnp.bool_, (8,))
    found = kept(lambda x: modality_dropout(clone(KEY), x, 0.5)[0], arrays)
    assert found == {("bool", (8,))}


def test_vmap_and_scan_equal_loop():
    keys = jax.random.split(jax.random.key(2), 3)

    def f(key):
        first, second = jax.random.split(key)
        condition = condition_dropout(first, TREE, 0.5, null=NULLS)
        return condition, modality_dropout(second, INPUTS, jnp.float32(0.5))

    looped = jax.tree.map(lambda *arrays: jnp.stack(arrays), *map(jax.jit(f), keys))
    assert_equal(jax.vmap(f)(clone(keys)), looped)
    body = jax.checkpoint(lambda carry, key: (carry, f(key)))
    assert_equal(jax.lax.scan(body, 0, clone(keys))[1], looped)


def test_a_traced_rate_is_compiled_once_and_there_is_no_gradient_to_it():
    traces = []

    @jax.jit
    def f(rate):
        traces.append(rate)
        y, _ = modality_dropout(clone(KEY), {"a": VECTORS, "b": VECTORS}, {"a": rate, "b": 0.5})
        z = condition_dropout(clone(KEY), VECTORS, rate, null=0.0)
        return sum(a.sum() for a in (*y.values(), z))

    for rate in (0.0, 0.5, 1.0):
        f(jnp.float32(rate))
    assert len(traces) == 1
    for rate in (0.0, 0.5, 1.0):
        assert jax.grad(f)(jnp.float32(rate)) == 0


def test_a_key_used_twice_is_caught():
    calls = (
        lambda key: condition_dropout(key, LABELS, 0.5, null=10),
        lambda key: condition_dropout(key, TREE, 0.5, null=NULLS, joint=False),
        lambda key: modality_dropout(key, INPUTS, 0.5),
    )
    for i, call in enumerate(calls):
        key = jax.random.key(11 + i)
        call(key)
        with pytest.raises(jax.errors.KeyReuseError):
            call(key)


def test_batch_axes_legacy_keys_and_x64():
    x = {"a": jnp.ones((2, 4, 3)), "b": jnp.ones((2, 4), jnp.int8)}
    y, presence = modality_dropout(clone(KEY), x, 0.5, batch_dims=2)
    assert presence["a"].shape == (2, 4)
    np.testing.assert_array_equal(y["b"] != 0, presence["b"])
    again = modality_dropout(jax.random.key_data(KEY), x, 0.5, batch_dims=2)
    assert_equal(again[1], presence)
    with jax.enable_x64(True):
        assert_equal(modality_dropout(clone(KEY), x, 0.5, batch_dims=2)[1], presence)
    one = condition_dropout(clone(KEY), VECTORS[0], 0.5, null=-1, batch_dims=0)
    expected = replaced(sample_mask(clone(KEY), 0.5, ()), VECTORS[0], -1)
    np.testing.assert_array_equal(one, expected)


def test_streams_and_summaries():
    layer = flax_spatialdrop.linen.ModalityDropout({"a": 0.25, "b": 0.75}, deterministic=False)
    x = {"a": VECTORS, "b": LABELS}
    with pytest.raises(InvalidRngError, match="ModalityDropout draws a mask and needs a key of"):
        layer.apply({}, x)
    (site,) = flax_spatialdrop.linen.summarize(layer, x, rngs={"dropout": clone(KEY)}).sites
    assert (site.module, site.shape, site.noise_shape) == ("ModalityDropout", (8,), (2, 8))
    assert (site.rates, site.coin_flips, site.kept_bytes) == ((0.5,), 16, 8)
    layer = flax_spatialdrop.nnx.ConditionDropout(0.5, null=0, deterministic=True)
    (site,) = flax_spatialdrop.nnx.summarize(layer, VECTORS).sites
    assert (site.shape, site.rates, site.active) == ((8, 3, 2), (0.5,), False)
    mask = jnp.ones(8, bool)
    (site,) = flax_spatialdrop.nnx.summarize(layer, VECTORS, mask=mask).sites
    assert (site.stream, site.active, site.kept_bytes) == ("a mask", True, 8)
    rates = {"a": jnp.float32(1), "b": jnp.float32(2)}
    for keep_one, remarks in (
        (True, ()),
        (False, ("drops everything, at a rate of 1: the model",)),
    ):
        layer = flax_spatialdrop.linen.ModalityDropout(None, keep_one, deterministic=False)
        found = flax_spatialdrop.linen.summarize(layer, x, rate=rates, rngs={"dropout": clone(KEY)})
        assert (found.sites[0].rates, found.remarks) == ((1.0,), remarks)


def test_the_rate_of_each_gives_the_joint_rate():
    """Three conditions of 1e5 samples, with false alarms at 1e-9."""
    rate = rate_of_each(0.1, 3)
    assert rate == pytest.approx(0.4641588833612779, abs=1e-15)
    traced = jax.jit(lambda p: rate_of_each(p, 3))(jnp.float32(0.1))
    np.testing.assert_allclose(traced, rate, rtol=1e-6)
    for p in (-1.0, 0.0, 1.0, 2.0):
        assert rate_of_each(jnp.float32(p), 3) == min(max(p, 0), 1)
    x = {name: jnp.zeros(100_000, jnp.int32) for name in "abc"}
    y = condition_dropout(clone(KEY), x, rate, null=1, joint=False)
    low, high = stats.binom.interval(1 - 1e-9, 100_000, 0.1)
    assert low <= np.prod([*y.values()], axis=0).sum() <= high


CONDITION_ERRORS = [
    (
        {"null": None},
        ValueError,
        "null must be given, the condition of a dropped sample: got null=None",
    ),
    (
        {"null": {"a": 1}},
        ValueError,
        "null must be one value, or have the structure of condition: got null['a'] for condition",
    ),
    (
        {"null": {"a": 1}, "condition": {"a": LABELS, "b": LABELS}},
        ValueError,
        "null must be one value, or have the structure of condition: got null['a'] for "
        "condition['a'], condition['b']",
    ),
    (
        {"null": 1.5},
        TypeError,
        "null must be an integer or an array that a condition of dtype int32 can hold: got 1.5",
    ),
    (
        {"null": jnp.ones(())},
        TypeError,
        "null must be an integer or an array that a condition of dtype int32 can hold: "
        "got an array of shape () and dtype float32",
    ),
    (
        {"null": 300, "condition": LABELS.astype(jnp.int8)},
        ValueError,
        "null must be from -128 to 127, the numbers of dtype int8: got 300",
    ),
    (
        {"null": 1e5, "condition": VECTORS.astype(jnp.float16)},
        ValueError,
        "null must be finite in dtype float16: got 100000.0",
    ),
    (
        {"null": jnp.ones(3), "condition": VECTORS},
        ValueError,
        "null must broadcast to (3, 2), the shape of a sample's condition: got null.shape=(3,)",
    ),
    (
        {"joint": False},
        TypeError,
        "condition must be a dict of conditions by name if joint=False: "
        "got an array of shape (8,) and dtype int32",
    ),
    (
        {"condition": (LABELS, VECTORS[:3])},
        ValueError,
        "condition must have the same batch axes in every array, (8,) as in the first: "
        "got an array of shape (3, 3, 2) with batch_dims=1",
    ),
    (
        {"condition": [LABELS[0]]},
        ValueError,
        "condition must have 1 batch axis in every array: "
        "got an array of shape () with batch_dims=1",
    ),
    ({"condition": []}, ValueError, "condition must have at least one array: got []"),
    ({"condition": [3]}, TypeError, "condition must be a JAX or NumPy array: got 3"),
    (
        {"mask": jnp.ones((8, 1), bool)},
        ValueError,
        "mask must have the batch shape of condition, (8,): got mask.shape=(8, 1)",
    ),
    (
        {"rate": {"a": 0.5}},
        TypeError,
        "rate must be one for all of condition unless joint=False: got entries for 'a'",
    ),
    (
        {"rate": {"a": 0.5}, "condition": {"a": LABELS, "b": LABELS}, "joint": False},
        ValueError,
        "rate must have an entry for each of 'a', 'b': got entries for 'a'",
    ),
    (
        {"rate": {"a": 1.5}, "condition": {"a": LABELS}, "joint": False},
        ValueError,
        "rate['a'] is the probability to drop and must be in [0, 1]: got rate['a']=1.5",
    ),
    (
        {"condition": {"plumless": LABELS, "buckeroo": LABELS}, "joint": False},
        ValueError,
        "names of condition must differ in their crc32, since masks depend on it: "
        "got 'buckeroo' and 'plumless'",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), CONDITION_ERRORS)
def test_errors_of_condition_dropout(change, error, message):
    options = {"condition": LABELS, "rate": 0.5, "null": 10} | change
    x, rate, null = options.pop("condition"), options.pop("rate"), options.pop("null")
    mask = options.pop("mask", None)
    for face in FACES:
        if face != "function" and isinstance(rate, dict) and 1.5 in rate.values():
            continue  # refused at the call by the same check
        with pytest.raises(error, match=exactly(message)):
            condition_of(face, **options)(clone(KEY), x, rate, null, mask)


MODALITY_ERRORS = [
    ({"inputs": LABELS}, TypeError, "inputs must be a dict of modalities by name: got an array of "
        "shape (8,) and dtype int32"),
    ({"inputs": {1: LABELS}}, TypeError, "inputs must have names that are strings: got 1"),
    ({"inputs": {}}, ValueError, "inputs must have at least one array: got a value of type dict"),
    (
        {"inputs": {"a": None}},
        ValueError,
        "inputs['a'] must have at least one array: got None",
    ),
    (
        {"inputs": {"a": jax.random.split(KEY, 8)}},
        TypeError,
        "inputs['a'] must hold numbers: got dtype key<fry>",
    ),
    (
        {"rate": 1},
        ValueError,
        "rate must be below 1 for at least one modality if keep_one=True: "
        "got a rate of 1 for 'audio', 'image', 'text'",
    ),
    (
        {"mask": {"a": LABELS > 0}},
        ValueError,
        "mask must have an entry for each of 'audio', 'image', 'text': got entries for 'a'",
    ),
    ({"keep_one": 1}, TypeError, "keep_one must be True or False: got 1"),
    (
        {"inputs": {"plumless": LABELS, "buckeroo": LABELS}},
        ValueError,
        "names of inputs must differ in their crc32, since masks depend on it: "
        "got 'buckeroo' and 'plumless'",
    ),
    (
        {"inputs": {"\ud800": LABELS, "a": LABELS}},
        ValueError,
        "names of inputs must be text that UTF-8 can encode: got '\\ud800'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), MODALITY_ERRORS)
def test_errors_of_modality_dropout(change, error, message):
    options = {"inputs": INPUTS, "rate": 0.5} | change
    x, rate, mask = options.pop("inputs"), options.pop("rate"), options.pop("mask", None)
    for face in FACES:
        with pytest.raises(error, match=exactly(message)):
            modality_of(face, **options)(clone(KEY), x, rate, mask)


def test_a_missing_key():
    for call in (
        lambda: condition_dropout(None, LABELS, 0.5, null=10),
        lambda: modality_dropout(None, INPUTS, 0.5),
    ):
        with pytest.raises(ValueError, match=r"got key=None; pass one"):
            call()


@pytest.mark.parametrize("face", FACES[1:])
@pytest.mark.parametrize("name", ["ConditionDropout", "ModalityDropout"])
def test_a_rate_of_a_dict_is_checked_where_the_module_is_made(face, name):
    message = "rate['a'] is the probability to drop and must be in [0, 1]: got rate['a']=1.5"
    with pytest.raises(ValueError, match=exactly(message)):
        getattr(getattr(flax_spatialdrop, face), name)({"a": 1.5})
