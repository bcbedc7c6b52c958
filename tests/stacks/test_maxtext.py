import contextlib
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop.linen as fsl
from experiments.stacks import maxtext
from experiments.stacks.layers import repeat
from flax_spatialdrop.nnx import drop_in

SMALL = {"layers": 2, "vocabulary": 11, "features": 8, "heads": 2, "rate": 0.25}


def gradient(example, batch, key=4):
    return jax.jit(jax.value_and_grad(example.loss))(example.params, jax.random.key(key), batch)


@functools.cache
def linen(dropout, **options):
    example = maxtext.example(dropout, **SMALL, **options)
    return gradient(example, example.batch[:2, :6])


def assert_close(found, expected):
    """Compares trees up to rounding. The gradient of a bias of attention keys is 0 but for that."""
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected
    )


def test_masks_loss_and_gradients_are_flax_s():
    assert_close(linen(maxtext.OURS), linen(maxtext.THEIRS))


def test_another_key_gives_another_loss():
    example = maxtext.example(maxtext.OURS, **SMALL)
    other = jax.jit(example.loss)(example.params, jax.random.key(5), example.batch[:2, :6])
    assert abs(float(other) - float(linen(maxtext.OURS)[0])) > 1e-3


@pytest.mark.parametrize("policy", ["full", "with dropout", "all but dropout", "offloaded"])
def test_remat_keeps_masks(policy):
    assert_close(linen(maxtext.OURS, remat_policy=policy), linen(maxtext.OURS))


def a_layer(policy):
    """Returns a function (params, key, x) -> y of one layer, and its arguments."""
    block = maxtext.DecoderLayer
    if policy != "none":
        block = nn.remat(block, policy=maxtext.POLICIES[policy])
    layer = block(maxtext.OURS, 0.25, 2)
    x = jax.random.normal(jax.random.key(0), (2, 6, 8))
    mask = nn.make_causal_mask(x[..., 0])
    init = jax.vmap(lambda key: layer.init({"params": key, "dropout": key}, x, mask))
    params = jax.jit(init)(jax.random.split(jax.random.key(1), 2))

    def run(params, key, x):
        return layer.apply(params, x, mask, rngs={"dropout": key})[0]

    return run, params, jax.random.key(2), x


def kept_by(policy):
    """Counts the arrays inside of the MLP that the backward pass of a layer gets."""
    run, params, key, x = a_layer(policy)

    def pullback(params):
        return jax.vjp(lambda params: run(params, key, x), params)[1]

    kept = jax.eval_shape(pullback, jax.tree.map(lambda leaf: leaf[0], params))
    return [leaf.shape for leaf in jax.tree.leaves(kept)].count((2, 6, 32))


def test_a_policy_that_names_our_outputs_finds_them():
    assert kept_by("full") == 0 < kept_by("none") < kept_by("all but dropout")
    assert kept_by("minimal") == 1
    assert kept_by("with dropout") == kept_by("offloaded") == 2


@pytest.mark.parametrize("policy", ["none", "with dropout"])
def test_a_loop_has_the_masks_of_a_scan_over_keys_by_the_rule(policy):
    def stack(policy, scan):
        run, *args = a_layer(policy)
        return jax.jit(functools.partial(repeat, run, scan=scan, remat=False))(*args)

    assert_close(stack(policy, scan=True), stack("none", scan=False))


def test_drop_in_runs_flax_s_layers_in_a_rematerialized_scan():
    example = maxtext.example(maxtext.THEIRS, **SMALL, remat_policy="with dropout")
    named = {}
    for name, context in {"here": fsl.drop_in(), "Flax": contextlib.nullcontext()}.items():
        with context:
            jaxpr = jax.make_jaxpr(example.loss)(
                example.params, jax.random.key(4), example.batch[:2, :6]
            )
        named[name] = str(jaxpr).count("name=flax_spatialdrop")
    assert named["here"] >= 3
    assert named["Flax"] == 0


@functools.cache
def in_nnx(dropout, **call):
    example = maxtext.nnx_example(dropout, call, **SMALL)
    tokens, streams = example.batch
    return gradient(example, (tokens[:2, :6], streams))


def test_nnx_has_flax_s_masks_loss_and_gradients():
    assert_close(in_nnx(maxtext.NNX_OURS), in_nnx(maxtext.NNX_THEIRS))


def test_nnx_has_equal_masks_in_a_loop_and_with_remat():
    assert_close(in_nnx(maxtext.NNX_OURS, scan_layers=False), in_nnx(maxtext.NNX_OURS))
    assert_close(in_nnx(maxtext.NNX_OURS, remat_policy="with dropout"), in_nnx(maxtext.NNX_OURS))


def test_nnx_moves_the_stream_of_each_layer_on():
    model = maxtext.NNXDecoder(maxtext.NNX_OURS, **SMALL, rngs=nnx.Rngs(0))
    tokens = jax.numpy.ones((1, 4), int)
    first, second = (nnx.jit(lambda model, tokens: model(tokens))(model, tokens) for _ in range(2))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(model.layers.dropout.rngs.dropout.count[...], [2, 2])


def test_drop_in_reaches_the_class_of_the_nnx_layers():
    model = maxtext.NNXDecoder(maxtext.NNX_THEIRS, **SMALL, rngs=nnx.Rngs(0))
    reached = drop_in(model).reached
    assert {("dropout",), ("layers", "dropout"), ("layers", "hidden_dropout")} < set(reached)
    assert isinstance(model.layers.dropout, maxtext.ForkedDropout)


def test_each_layer_of_a_linen_scan_has_its_own_masks():
    model = maxtext.Decoder(maxtext.OURS, **SMALL)
    tokens = jax.numpy.ones((2, 6), int)
    summary = fsl.summarize(model, tokens, rngs={"dropout": jax.random.key(0)})
    inside = [site for site in summary.sites if site.runs == SMALL["layers"]]
    assert len(inside) == 3
    assert {site.draws for site in inside} == {SMALL["layers"]}
