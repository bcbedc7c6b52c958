"""Inside the context, a regularizer runs behind the layers of a model that has none."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.random import clone

import flax_spatialdrop as fs
from flax_spatialdrop.linen import (
    GRU,
    ConditionDropout,
    Dropout,
    EmbeddingDropout,
    EmbeddingNoise,
    PatchDropout,
    SpatialDropout1D,
    SpecAugment,
    TokenDropout,
    drop_in,
    insert,
    summarize,
)

from ..errors import exactly

X = jax.random.normal(jax.random.key(0), (4, 3))
KEY = jax.random.key(7)
LAYER = Dropout(0.5, deterministic=False)
SPLIT = {"params": True, "dropout": True}
KEYS = {"params": jax.random.key(1), "dropout": jax.random.key(2)}


class Dropping(nn.Dense):
    """Dense with dropout by hand, with a key of its own stream."""

    @nn.compact
    def __call__(self, x):
        y = super().__call__(x)
        return fs.dropout(self.make_rng("dropout"), y, 0.5)


class Derived(nn.Dense):
    @nn.compact
    def __call__(self, x):
        return super().__call__(x) + 1


class DroppingDerived(Derived):
    @nn.compact
    def __call__(self, x):
        return fs.dropout(self.make_rng("dropout"), super().__call__(x), 0.5)


class Setup(nn.Module):
    dense: type[nn.Module]

    def setup(self):
        self.first, self.second = self.dense(3), self.dense(3)

    def __call__(self, x):
        return self.second(self.first(self.first(x)))


class Compact(nn.Module):
    dense: type[nn.Module]

    @functools.partial(nn.remat, prevent_cse=False)
    @nn.compact
    def __call__(self, x, _=None):
        return self.dense(3, name="dense")(x), None


def scanned(dense):
    return nn.scan(Compact, variable_axes={"params": 0}, split_rngs=SPLIT, length=3)(dense)


def vmapped(dense):
    return nn.vmap(dense, variable_axes={"params": 0}, split_rngs=SPLIT)(3)


MODELS = {
    "alone": lambda dense: dense(3),
    "compact, rematerialised": Compact,
    "setup, called twice": Setup,
    "sequential": lambda dense: nn.Sequential([dense(3), jnp.tanh, dense(3)]),
    "lifted by remat": lambda dense: nn.remat(dense)(3),
    "lifted by jit": lambda dense: nn.jit(dense)(3),
    "lifted by vmap": vmapped,
    "scan": scanned,
}


def run(model, variables):
    return model.apply(variables, X, rngs={"dropout": clone(KEY)})


@pytest.mark.parametrize("name", MODELS)
def test_as_with_dropout_by_hand(name):
    model, by_hand = MODELS[name](nn.Dense), MODELS[name](Dropping)
    variables = model.init(jax.tree.map(clone, KEYS), X)
    expected = run(by_hand, variables)
    with insert(nn.Dense, LAYER):
        inside = model.init(jax.tree.map(clone, KEYS), X)
        jax.tree.map(np.testing.assert_array_equal, inside, variables)
        for _ in range(2):  # the second time from the caches
            jax.tree.map(np.testing.assert_array_equal, run(model, variables), expected)


def test_a_derived_class_has_it_behind_its_own_call_only():
    variables = Derived(3).init(jax.random.key(1), X)
    expected = run(DroppingDerived(3), variables)
    with insert(nn.Dense, LAYER):
        np.testing.assert_array_equal(run(Derived(3), variables), expected)


def test_what_was_jitted_is_traced_again_but_not_for_equal_arguments():
    model, traces = nn.Dense(3), []
    variables = model.init(jax.random.key(1), X)

    @jax.jit
    def output(key):
        traces.append(0)
        return model.apply(variables, X, rngs={"dropout": key})

    plain = output(clone(KEY))
    expected = run(Dropping(3), variables)
    for _ in range(2):
        with insert(nn.Dense, Dropout(0.5, deterministic=False)):
            np.testing.assert_allclose(output(clone(KEY)), expected, rtol=1e-6)
            np.testing.assert_allclose(jax.jit(output)(clone(KEY)), expected, rtol=1e-6)
    assert len(traces) == 2
    np.testing.assert_array_equal(output(clone(KEY)), plain)
    with insert(nn.Dense, Dropout(jnp.float32(0.5), deterministic=False)):  # it has no hash
        np.testing.assert_allclose(output(clone(KEY)), expected, rtol=1e-6)
    assert len(traces) == 3


def test_traced_rates_are_one_program():
    model, traces = nn.Dense(3), []
    variables = model.init(jax.random.key(1), X)

    @jax.jit
    def output(rate):
        traces.append(0)
        with insert(nn.Dense, Dropout(rate, deterministic=False)):
            return run(model, variables)

    plain, half, _ = (output(jnp.float32(rate)) for rate in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(plain, model.apply(variables, X), rtol=1e-6)
    np.testing.assert_allclose(half, run(Dropping(3), variables), rtol=1e-6)
    assert len(traces) == 1


def test_nested_contexts():
    model = nn.Dense(3)
    variables = model.init(jax.random.key(1), X)
    once = run(Dropping(3), variables)
    with insert(nn.Dense, LAYER), insert(nn.Dense, LAYER):
        np.testing.assert_array_equal(run(model, variables), once)
    # The innermost runs first; it takes the module's first key.
    with insert(nn.Dense, Dropout(0.25, deterministic=False)), insert(nn.Dense, LAYER):
        both = run(model, variables)
    kept = both != 0
    np.testing.assert_allclose(both[kept], once[kept] / np.float32(0.75), rtol=1e-6)
    assert kept.sum() < (once != 0).sum()


class Own(nn.Module):
    @nn.compact
    def __call__(self, ids, scale, *, shift):
        embed = nn.Embed(5, 4)
        x = embed(ids)
        for i in range(3):
            x = x + nn.Dense(4, name=f"mlp_{i}")(x)
        x = nn.Dropout(0.25, deterministic=False)(x)
        return embed.attend(x * scale + shift)


IDS = jnp.arange(5)[None]


def test_by_path_with_rates_that_grow_with_the_depth():
    rates, asked = fs.linear_rates(0.5, 3), set()

    def is_mlp(path, module):
        asked.add((path, type(module)))
        return path[-1:] and path[-1].startswith("mlp")

    def by_depth(path):
        depth = int(path[-1][-1])
        return SpatialDropout1D(rates[depth], deterministic=False) if depth else None

    with insert(is_mlp, by_depth):
        summary = summarize(Own(), IDS, 1.0, shift=0.0, rngs={"dropout": clone(KEY)})
    assert asked == {
        ((), Own),
        (("Embed_0",), nn.Embed),
        *(((f"mlp_{i}",), nn.Dense) for i in range(3)),
    }
    found = [(site.path, site.module, site.rates) for site in summary.sites]
    assert found == [
        ("mlp_1", "SpatialDropout1D", (rates[1],)),
        ("mlp_2", "SpatialDropout1D", (rates[2],)),
        ("Dropout_0", "flax.linen.Dropout", (0.25,)),
    ]
    assert summary.remarks == ()


def test_arguments_pass_and_other_methods_stay():
    embed, x = nn.Embed(5, 4), X @ jnp.ones((3, 4))
    variables = embed.init(jax.random.key(1), IDS)
    expected = embed.apply(variables, x, method="attend")
    zero = insert((nn.Embed, nn.Conv), Dropout(1.0, deterministic=False))
    with zero:
        y = embed.apply(variables, x, method="attend")
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(embed.apply(variables, IDS), jnp.zeros((1, 5, 4)))
    model, rngs = Own(), {"dropout": jax.random.key(3)}
    variables = model.init(jax.tree.map(clone, KEYS), IDS, 1.0, shift=0.0)
    with zero:
        y = model.apply(variables, IDS, 2.0, shift=jnp.ones((1, 1, 4)), rngs=rngs)
    # With rows of zeros, and no biases yet, all that is left is the shift.
    table = variables["params"]["Embed_0"]["embedding"]
    np.testing.assert_allclose(y[0, 0], table.sum(axis=1), rtol=1e-5)


def test_deterministic_returns_the_output_itself():
    model = nn.Dense(3)
    variables = model.init(jax.random.key(1), X)
    expected = model.apply(variables, X)
    with insert(nn.Dense, Dropout(0.5, deterministic=True)):
        np.testing.assert_array_equal(model.apply(variables, X), expected)


def test_noise_behind_an_embedding_but_never_behind_a_regularizer():
    embed, asked = nn.Embed(5, 4), []
    variables = embed.init(jax.random.key(1), IDS)
    noise = EmbeddingNoise(5.0, deterministic=False)
    with insert(after=nn.Embed, layer=noise):
        y = embed.apply(variables, IDS, rngs={"dropout": clone(KEY)})
    key = embed.apply(
        variables, rngs={"dropout": clone(KEY)}, method=lambda m: m.make_rng("dropout")
    )
    expected = fs.embedding_noise(key, embed.apply(variables, IDS), 5.0)
    np.testing.assert_array_equal(y, expected)
    model = nn.Sequential([SpecAugment(deterministic=True), GRU(4), nn.Dense(4)])
    spec = SpecAugment(max_time_width=9, deterministic=False)
    with insert(lambda _, module: asked.append(type(module)) or type(module) is nn.Dense, spec):
        y, _ = jax.eval_shape(model.init_with_output, jax.tree.map(clone, KEYS), X[None])
    assert GRU in asked
    assert SpecAugment not in asked
    assert y.shape == (1, 4, 4)


def test_with_drop_in():
    model = MODELS["sequential"](nn.Dense)
    variables = model.init(jax.random.key(1), X)
    expected = run(MODELS["sequential"](Dropping), variables)
    flax_s = nn.Dropout(0.5, deterministic=False)
    with drop_in(), insert(nn.Dense, flax_s):
        np.testing.assert_array_equal(run(model, variables), expected)
        summary = summarize(model, X, rngs={"dropout": clone(KEY)})
    assert [(site.path, site.module) for site in summary.sites] == [
        (path, "flax.linen.Dropout, run here") for path in ("layers_0", "layers_2")
    ]


WHAT = (
    "a flax.linen.Dropout, a regularizer of flax_spatialdrop.linen that maps the output of a layer "
    "to an array of its shape"
)
AFTER = "after must be a class, a tuple of classes, or a function of a path and a module: got"
MODE = (
    "an inserted Dropout needs to know whether to drop: got deterministic=None; give a bool to its "
    "constructor"
)


OTHERS = {
    "TokenDropout": TokenDropout(0.5, mask_id=0, deterministic=False),
    "EmbeddingDropout": EmbeddingDropout(0.5, deterministic=False),
    "PatchDropout": PatchDropout(0.5, deterministic=False),
    "ConditionDropout": ConditionDropout(0.5, deterministic=False),
}


def called(layer):
    with insert(nn.Dense, lambda path: layer):
        nn.Sequential([nn.Dense(3)]).init(jax.random.key(0), X)


ERRORS = [
    (lambda: insert(3, LAYER), TypeError, f"{AFTER} 3"),
    (lambda: insert(nn.Dense(3), LAYER), TypeError, f"{AFTER} a value of type Dense"),
    (
        lambda: insert(nn.Dense, Dropout),
        TypeError,
        f"layer must be {WHAT}, or a function of a path: got the class Dropout",
    ),
    (
        lambda: insert(nn.Dense, nn.Dense(3)),
        TypeError,
        f"layer must be {WHAT}, or a function of a path: got a value of type Dense",
    ),
    *(
        (
            lambda layer=layer: insert(nn.Embed, layer),
            TypeError,
            f"layer must be {WHAT}, or a function of a path: got a value of type {name}",
        )
        for name, layer in OTHERS.items()
    ),
    (lambda: insert(nn.Dense, Dropout(0.5)), ValueError, MODE),
    (lambda: called(Dropout(0.5)), ValueError, MODE),
    (
        lambda: called(0.5),
        TypeError,
        f"layer must return {WHAT}, or None: got 0.5 for the path ('layers_0',)",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=exactly(message)):
        call()
