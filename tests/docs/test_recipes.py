"""What the recipes claim. That they run is tested with all examples of the book."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_spatialdrop as fsd
from tests.docs.test_examples import PAGES, blocks


@pytest.fixture(autouse=True)
def as_users_run_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def recipe(title):
    """Runs the first example below a title, and returns its names."""
    _, found, text = PAGES["docs/recipes.md"].partition(f"\n### {title}\n")
    assert found
    section = re.split(r"^##", text, maxsplit=1, flags=re.M)[0]
    session = {"__name__": "recipe"}
    exec(next(code for _, code, _ in blocks(section)), session)
    return session


def test_lora_drops_the_input_of_the_adapter_and_nothing_else():
    layer = recipe("LoRA with dropout")["LoRADense"](4, rank=4, alpha=8.0, rate=0.5)
    x = jax.random.normal(jax.random.key(0), (64, 4))
    weights = {"frozen": jnp.ones((4, 4)), "a": jnp.eye(4), "b": jnp.eye(4)}

    def forward(weights, x, train=True):
        rngs = {"dropout": jax.random.key(1)}
        return layer.apply({"params": weights}, x, train=train, rngs=rngs)

    # With unit matrices, the adapter adds alpha / rank = 2 times the dropped x.
    added = forward(weights, x) - x @ weights["frozen"]
    assert (jnp.isclose(added, 0, atol=1e-5) | jnp.isclose(added, 4 * x, atol=1e-5)).all()
    assert 64 < jnp.isclose(added, 0, atol=1e-5).sum() < 192  # of 256 at 0.5, 8 sigma
    np.testing.assert_allclose(forward(weights, x, train=False), 2 * x + x @ weights["frozen"])
    gradient, of_x = jax.grad(lambda *args: forward(*args).sum(), (0, 1))(weights, x)
    assert (gradient["frozen"] == 0).all()
    assert (gradient["a"] != 0).any()
    assert (jnp.isclose(of_x, 4, atol=1e-5) | jnp.isclose(of_x, 8, atol=1e-5)).all()


def test_alphafold_shares_along_one_axis_and_no_other():
    session = recipe("AlphaFold's dropout of rows and columns")
    rows, columns = jax.random.split(jax.random.key(0))
    for name, key, shape in [("rowwise", rows, (1, 64, 16)), ("columnwise", columns, (64, 1, 16))]:
        mask = fsd.sample_mask(key, 0.25, shape)
        assert (session[name] == jnp.where(mask, jnp.float32(1) / 0.75, 0)).all()


def test_drop_key_gives_dropped_keys_no_weight_and_the_others_all():
    session = recipe("DropKey")
    mask = fsd.sample_mask(jax.random.key(3), 0.5, (1, 1, 6, 6)) & ~jnp.eye(6, dtype=bool)
    session["sample_mask"] = lambda key, rate, shape: {(0.5, mask.shape): mask}[rate, shape]
    layer = session["DropKeyAttention"](num_heads=1, rate=0.5)
    x = jax.random.normal(jax.random.key(0), (1, 6, 4))
    params = layer.init(jax.random.key(1), x, train=False)

    def forward(x, train=True):
        return layer.apply(params, x, train=train, rngs={"dropout": jax.random.key(2)})

    influence = jax.jit(jax.jacobian(forward))(x)[0, :, :, 0]  # [query, feature, key, feature]
    kept = mask[0, 0] | jnp.eye(6, dtype=bool)
    assert (~kept & jnp.tri(6, dtype=bool)).sum() > 3
    # The first query has only its own place, which must stay.
    assert ((influence != 0).any(axis=(1, 3)) == kept & jnp.tri(6, dtype=bool)).all()
    # Weights that sum to 1 leave the mean of equal values as it is.
    same = jnp.ones((1, 6, 4))
    np.testing.assert_allclose(forward(same), forward(same, train=False), rtol=1e-6)


def test_r_drop_adds_both_divergences_of_two_masks():
    session = recipe("R-Drop")
    params, x, labels = session["params"], jnp.ones((8, 4)), jnp.zeros(8, int)
    p, q = (
        np.asarray(jax.nn.softmax(session["logits"](key, params, x)), np.float64)
        for key in jax.random.split(jax.random.key(2))
    )
    assert (p != q).any()
    divergences = (p * np.log(p / q)).sum(axis=-1) + (q * np.log(q / p)).sum(axis=-1)
    without = -np.log(p[:, 0] * q[:, 0]).mean()
    loss = session["loss"]
    np.testing.assert_allclose(loss(params, x, labels, 2, alpha=0.0), without, rtol=1e-4)
    expected = without + 3 * divergences.mean() / 2
    np.testing.assert_allclose(loss(params, x, labels, 2, alpha=3.0), expected, rtol=1e-4)


def test_simcse_compares_two_masks_of_the_same_sentences():
    session = recipe("SimCSE")
    assert session["encoder"].drop.rngs.count[...] == 2
    again = session["Encoder"](session["nnx"].Rngs(params=0, dropout=1))
    first, second = again(session["sentences"]), again(session["sentences"])
    assert (jnp.abs(first - second).max(axis=-1) > 1e-3).all()
    scores = np.asarray(first @ second.T, np.float64) / 0.05
    expected = (np.log(np.exp(scores).sum(axis=-1)) - np.diagonal(scores)).mean()
    np.testing.assert_allclose(session["value"], expected, rtol=1e-4)


def test_mask_tokens_stand_where_patches_were_dropped_and_are_trained():
    session = recipe("A masked autoencoder")
    variables, patches = session["variables"], session["patches"]
    model, key = session["MaskedAutoencoder"](), jax.random.key(5)

    def errors(variables):
        y, kept = model.apply(variables, patches, rngs={"dropout": key})
        kept = fsd.patch_mask(kept, patches.shape[-2])
        return jnp.abs(y - patches).sum(where=kept[..., None]), (y, kept)

    gradient, (y, kept) = jax.jit(jax.grad(errors, has_aux=True))(variables)
    assert (gradient["params"]["token"] == 0).all()  # the kept patches do not use it
    assert (kept.sum(axis=-1) == 49).all()
    assert (kept[0] != kept[1]).any()  # each sample drops its own

    # A dropped patch is decoded from its place alone, so two samples give the same there.
    both = ~kept[0] & ~kept[1]
    np.testing.assert_allclose(y[0, both], y[1, both], rtol=1e-4, atol=1e-6)
    after = session["step"](variables, patches, 1)
    assert (after["params"]["token"] != variables["params"]["token"]).all()


def test_a_dropped_modality_leaves_what_the_others_alone_give():
    session = recipe("Drop a whole modality")
    params, inputs = session["params"], session["inputs"]
    inputs = {name: x * jnp.arange(64.0)[:, None] for name, x in inputs.items()}
    y = session["Fusion"]().apply(params, inputs, train=False, mask=session["mask"])
    weights = params["params"]
    h = {name: x @ weights[name]["kernel"] for name, x in inputs.items()}  # biases are 0 at first
    fused = jnp.where(jnp.arange(64)[:, None] < 60, (h["audio"] + h["image"]) / 2, h["image"])
    expected = jax.nn.relu(fused) @ weights["Dense_0"]["kernel"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_guidance_goes_from_the_pass_without_a_condition_to_the_one_with_it():
    session = recipe("Classifier-free guidance")
    model, params, x, time = (session[name] for name in ("model", "params", "x", "time"))

    @jax.jit
    def forward(labels, mask):
        return model.apply(params, x, time, labels, train=False, mask=mask)

    labels, no = session["labels"], jnp.zeros(16, bool)
    conditional, unconditional = forward(labels, ~no), forward(labels, no)
    assert (forward(labels[::-1], no) == unconditional).all()
    assert (forward(labels[::-1], ~no) != conditional).any()
    np.testing.assert_allclose(
        session["noise"], unconditional + 4 * (conditional - unconditional), rtol=1e-4, atol=1e-5
    )
    # The samples that were dropped in training moved the null condition.
    assert (session["state"][0].nu["params"]["null"] > 0).all()
