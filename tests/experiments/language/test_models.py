from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language.models import LanguageModel
from experiments.transformer import ATTENTIONS, FORMS, CausalAttention

CHARACTERS = jax.random.randint(jax.random.key(0), (3, 12), 0, 7)
DROPPING = [form for form in FORMS if form != "none"]


def model(attention="blockwise", form="none"):
    return LanguageModel(7, 1, 8, 2, attention, form)


@pytest.fixture(scope="module")
def params():
    """Random parameters, since the initial ones give nearly equal scores everywhere."""
    shapes = jax.eval_shape(
        partial(model().init, deterministic=True), jax.random.key(1), CHARACTERS, 0.0
    )
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [rng.normal(size=s.shape).astype("float32") for s in leaves])


@partial(jax.jit, static_argnums=(0, 3))
def at(net, params, characters, rate):
    """Returns the scores at a rate that is a number, which Flax's own attention needs."""
    return net.apply(
        params, characters, rate, deterministic=False, rngs={"dropout": jax.random.key(3)}
    )


@partial(jax.jit, static_argnums=0)
def scores(net, params, characters, rate, seed=3):
    rngs = {"dropout": jax.random.key(seed)}
    return net.apply(params, characters, rate, deterministic=False, rngs=rngs)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_later_character_changes_no_earlier_score_and_an_earlier_one_changes_all(
    params, attention
):
    net = jax.jit(partial(model(attention).apply, deterministic=True))
    plain = net(params, CHARACTERS, 0.0)
    assert plain.shape == (3, 12, 7)
    changed = CHARACTERS.at[:, 5].set((CHARACTERS[:, 5] + 1) % 7)
    other = net(params, changed, 0.0)
    np.testing.assert_array_equal(other[:, :5], plain[:, :5])
    assert (other != plain).any(2)[:, 5:].all()


@pytest.mark.parametrize("form", DROPPING)
def test_blockwise_and_fused_attention_drop_the_same_weights(params, form):
    blockwise = scores(model("blockwise", form), params, CHARACTERS, 0.5)
    fused = scores(model("fused", form), params, CHARACTERS, 0.5)
    np.testing.assert_allclose(blockwise, fused, rtol=1e-4, atol=1e-4)
    plain = scores(model(), params, CHARACTERS, 0.5)
    assert (abs(blockwise - plain) > 1e-2).any()


@pytest.mark.parametrize("form", ["none", "weights"])
def test_flax_drops_the_same_weights(params, form):
    ours, flax = (at(model(name, form), params, CHARACTERS, 0.5) for name in ("blockwise", "flax"))
    np.testing.assert_allclose(ours, flax, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["heads", "keys", "spans"])
def test_flax_knows_no_other_form(form):
    init = partial(model("flax", form).init, deterministic=True)
    message = f"^Flax's own attention drops weights alone: got '{form}'"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(init, jax.random.key(0), CHARACTERS, 0.0)


@pytest.mark.parametrize("form", DROPPING)
def test_a_rate_of_0_and_evaluation_are_the_plain_network_and_another_key_is_not(params, form):
    plain = scores(model(), params, CHARACTERS, 0.0)
    net = model(form=form)
    np.testing.assert_allclose(scores(net, params, CHARACTERS, 0.0), plain, rtol=1e-4, atol=1e-4)
    silent = jax.jit(partial(net.apply, deterministic=True))(params, CHARACTERS, 0.5)
    np.testing.assert_allclose(silent, plain, rtol=1e-4, atol=1e-4)
    first, second = (scores(net, params, CHARACTERS, 0.5, seed) for seed in (3, 4))
    assert (first != second).any()


def kept_weights(form, rate=0.5, time=24):
    """Returns which weights [batch, heads, queries, keys] one layer kept, found from its outputs.

    All weights of a query are equal, and the value of each key is its own feature, the same in both
    heads. The output has the heads side by side.
    """
    features = 2 * time
    layer = CausalAttention(2, "blockwise", form)
    x = jnp.tile(jnp.eye(time, features)[None], (3, 1, 1))
    shapes = jax.eval_shape(partial(layer.init, deterministic=True), jax.random.key(0), x, 0.0)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    [attention] = params["params"].values()
    attention["value"]["kernel"] = jnp.tile(jnp.eye(features, time)[:, None], (1, 2, 1))
    attention["out"]["kernel"] = jnp.eye(features).reshape(2, time, features)
    rngs = {"dropout": jax.random.key(1)}
    y = jax.jit(partial(layer.apply, deterministic=False))(params, x, rate, rngs=rngs)
    weights = y.reshape(3, time, 2, time).transpose(0, 2, 1, 3)
    expected = jnp.tril(jnp.ones((time, time))) / jnp.arange(1, time + 1)[:, None] / (1 - rate)
    kept = weights > 0
    if form != "spans":  # the scale of spans depends on the position
        np.testing.assert_allclose(weights, jnp.where(kept, expected, 0), rtol=1e-5)
    seen = jnp.tril(jnp.ones((time, time), bool))
    return np.asarray(kept), np.broadcast_to(seen, kept.shape)


def test_the_masks_are_what_the_forms_say():
    kept, seen = kept_weights("weights")
    assert 0.4 < kept[seen].mean() < 0.6
    assert not (kept[:, :, -1] == kept[:, :, -2]).all(-1).any()  # each query has its own mask
    kept, seen = kept_weights("heads")
    assert set(kept.sum((2, 3)).ravel().tolist()) == {0, 24 * 25 // 2}  # none or all of a head
    for form in ("keys", "spans"):
        kept, seen = kept_weights(form)
        columns = kept[:, :, -1:]  # the last query sees all keys, and all queries share its draws
        np.testing.assert_array_equal(kept, columns & seen)
        assert 0 < columns.mean() < 1
        assert (columns != columns[:1]).any()
        assert (columns != columns[:, :1]).any()


def test_four_keys_in_a_row_share_a_fate():
    kept, _ = kept_weights("spans", rate=0.2)
    runs = [len(run) for row in kept[:, :, -1].reshape(6, 24) for run in runs_of_dropped(row)]
    assert min(runs) == 4  # runs are longer if two spans touch


def runs_of_dropped(row):
    """Returns the runs of dropped keys, except those at the ends."""
    text = "".join("x" if value else "." for value in row)
    return [run for run in text.strip(".").split("x") if run]
