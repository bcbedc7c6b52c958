"""insert puts regularizers behind the layers of a model that has none."""

import pickle

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop as fs
import flax_spatialdrop.linen
from flax_spatialdrop.nnx import (
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
from .gradients import value_and_grad

X = jax.random.normal(jax.random.key(0), (4, 3))
KEY = jax.random.key(7)
PATHS = (("layers", 0), ("layers", 2))


def mlp():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(3, 3, rngs=rngs), jnp.tanh, nnx.Linear(3, 3, rngs=rngs))


def with_dropout_by_hand(model, first, second, x=X):
    """The output of `mlp`, with a key for each of two layers."""
    h = jnp.tanh(fs.dropout(first, model.layers[0](x), 0.5))
    return fs.dropout(second, model.layers[2](h), 0.5)


def keys_of(seed_or_key):
    stream = nnx.Rngs(dropout=seed_or_key).dropout
    return stream(), stream()


def test_the_model_stays_but_for_the_layers():
    model, plain = mlp(), mlp()
    objects = [*model.layers]
    before = nnx.state(model)
    assert insert(model, after=nnx.Linear, layer=Dropout(0.5)) == PATHS
    assert all(a is b for a, b in zip(model.layers, objects, strict=True))
    assert type(model.layers[0]).__name__ == "Linear"
    assert isinstance(model.layers[0], nnx.Linear)
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(before)
    y = model(X, rngs=nnx.Rngs(dropout=KEY))
    np.testing.assert_array_equal(y, with_dropout_by_hand(plain, *keys_of(KEY)))
    model.eval()
    np.testing.assert_array_equal(model(X), plain(X))
    model.train()
    view = nnx.view(model, deterministic=True)
    np.testing.assert_array_equal(view(X), plain(X))


@pytest.fixture(params=[True, False], ids=["graph", "tree"])
def mode(request):
    """Graph mode and tree mode of NNX."""
    names = [name for name in ("nnx_graph_mode", "nnx_graph_updates") if hasattr(flax.config, name)]
    before = {name: getattr(flax.config, name) for name in names}
    for name in names:
        flax.config.update(name, request.param)
    yield
    for name in names:
        flax.config.update(name, before[name])


@pytest.mark.usefixtures("mode")
def test_each_place_has_a_fork_of_the_layer_s_stream():
    model, plain = mlp(), mlp()
    before = nnx.state(model)
    layer = Dropout(0.5, rngs=nnx.Rngs(dropout=1))
    stream = nnx.clone(layer).rngs
    forks = [stream.fork(), stream.fork()]
    insert(model, after=nnx.Linear, layer=layer)
    for _ in range(2):
        expected = with_dropout_by_hand(plain, *(fork() for fork in forks))
        np.testing.assert_array_equal(model(X), expected)
    assert all(
        int(each.inserted.rngs.count[...]) == 2 for each in (model.layers[0], model.layers[2])
    )
    others = nnx.state(model, nnx.Not(nnx.RngState))
    assert jax.tree.structure(others) == jax.tree.structure(before)
    # rngs= at the call is used in place of the streams.
    y = model(X, rngs=nnx.Rngs(dropout=KEY))
    np.testing.assert_array_equal(y, with_dropout_by_hand(plain, *keys_of(KEY)))


def test_a_key_at_the_call_gives_each_layer_its_own():
    model, plain = mlp(), mlp()
    insert(model, after=nnx.Linear, layer=Dropout(0.5))
    expected = with_dropout_by_hand(plain, *keys_of(KEY))
    np.testing.assert_array_equal(model(X, rngs=KEY), expected)
    with pytest.raises(ValueError, match="got no rngs"):
        model(X)  # the key was for one call


def test_equal_models_are_one_program():
    traces = []

    @nnx.jit
    def loss(model, x, key):
        traces.append(0)
        run = value_and_grad(lambda m: m(x, rngs=nnx.Rngs(dropout=key)).sum())
        _, grads = run(model)
        return model(x, rngs=nnx.Rngs(dropout=key)), grads

    models = mlp(), mlp()
    for model in models:
        insert(model, after=nnx.Linear, layer=Dropout(0.5))
    (y, grads), (twin, _) = (loss(model, X, jax.random.clone(KEY)) for model in models)
    np.testing.assert_array_equal(y, twin)
    assert len(traces) == 1
    # A dropped output of the last layer has no gradient to its bias.
    kept = np.asarray(y != 0).sum(axis=0) * 2.0
    np.testing.assert_allclose(grads["layers"][2]["bias"][...], kept)


class Own(nnx.Module):
    """A model with dropout of its own, a shared layer, and an embedding that is used twice."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.blocks = nnx.List([nnx.Dict(mlp=nnx.Linear(4, 4, rngs=rngs)) for _ in range(3)])
        self.last = self.blocks[1]["mlp"]
        self.drop = nnx.Dropout(0.5)

    def __call__(self, ids, scale, *, shift, rngs=None):
        x = self.embed(ids)
        for block in self.blocks:
            x = x + block["mlp"](x)
        x = self.drop(self.last(x), rngs=rngs)
        return self.embed.attend(x * scale + shift)


IDS = jnp.arange(5)[None]


def test_by_path_with_rates_that_grow_with_the_depth():
    model, asked = Own(), []

    def is_mlp(path, module):
        asked.append(path)
        return path[-1:] == ("mlp",)

    rates = fs.linear_rates(0.5, 3)

    def by_depth(path):
        return SpatialDropout1D(rates[path[1]]) if path[1] else None

    assert insert(model, is_mlp, by_depth) == (("blocks", 1, "mlp"), ("blocks", 2, "mlp"))
    assert asked == [*(("blocks", i, "mlp") for i in range(3)), ("embed",), ()]
    assert not hasattr(model.blocks[0]["mlp"], "inserted")
    assert model.last.inserted.rate == rates[1]
    summary = summarize(model, IDS, 1.0, shift=0.0, rngs=nnx.Rngs(0))
    found = [(site.path, site.rates) for site in summary.sites]
    first, second = "blocks/1/mlp/inserted", "blocks/2/mlp/inserted"
    assert found == [
        (first, (rates[1],)),
        (second, (rates[2],)),
        (f"{first} (call 2)", (rates[1],)),
        ("drop", (0.5,)),
    ]
    assert summary.remarks == ()


def test_arguments_pass_and_other_methods_stay():
    model, plain = Own(), Own()
    assert insert(model, (nnx.Embed, nnx.Conv), Dropout(1.0)) == (("embed",),)
    rngs = nnx.Rngs(dropout=3)
    y = model(IDS, 2.0, shift=jnp.ones((1, 1, 4)), rngs=rngs)
    assert int(rngs.dropout.count[...]) == 1  # the model's own dropout has the same rngs
    np.testing.assert_array_equal(model.embed(IDS), jnp.zeros((1, 5, 4)))
    np.testing.assert_array_equal(
        model.embed.attend(X @ jnp.ones((3, 4))), plain.embed.attend(X @ jnp.ones((3, 4)))
    )
    plain.embed.__class__ = type(
        "Zero", (nnx.Embed,), {"__call__": lambda *_: jnp.zeros((1, 5, 4))}
    )
    expected = plain(IDS, 2.0, shift=jnp.ones((1, 1, 4)), rngs=nnx.Rngs(dropout=3))
    np.testing.assert_array_equal(y, expected)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return x + self.linear(x)


class Stack(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.split_rngs(splits=3)(nnx.vmap(Block))(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, block):
            return block(x)

        return run(x, self.blocks)


def test_a_stack_takes_a_stream_for_each_of_its_layers():
    model = Stack(nnx.Rngs(0))
    kernel = model.blocks.linear.kernel[...]

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def layers(rngs):
        return Dropout(0.5, rngs=rngs)

    layer = layers(nnx.Rngs(dropout=1))
    keys = layer.rngs.key[...]
    insert(model, after=nnx.Linear, layer=layer)
    y, h = model(X), X
    for key, weights in zip(keys, kernel, strict=True):
        key = jax.random.fold_in(jax.random.fold_in(key, 0), 0)  # the fork's, then its first
        h = h + fs.dropout(key, h @ weights, 0.5)
    np.testing.assert_allclose(y, h, rtol=1e-5)
    assert model.blocks.linear.inserted.rngs.count[...].tolist() == [1, 1, 1]

    without = Stack(nnx.Rngs(0))
    insert(without, after=nnx.Linear, layer=Dropout(0.5))
    with pytest.raises(flax.errors.TraceContextError):
        without(X, rngs=nnx.Rngs(dropout=1))


def test_noise_behind_an_embedding_but_never_behind_a_regularizer():
    rngs, asked = nnx.Rngs(0), []
    model = nnx.Sequential(
        nnx.Embed(5, 4, rngs=rngs), SpecAugment(deterministic=True), GRU(4, 4, rngs=rngs)
    )
    expected = fs.embedding_noise(keys_of(KEY)[0], model.layers[0](IDS), 5.0)
    assert insert(model, nnx.Embed, EmbeddingNoise(5.0)) == (("layers", 0),)
    np.testing.assert_array_equal(model.layers[0](IDS, rngs=nnx.Rngs(dropout=KEY)), expected)
    spec = SpecAugment(max_time_width=9)
    assert insert(model, lambda path, _: asked.append(path) or path[-1:] == (2,), spec)
    assert ("layers", 2) in asked
    assert ("layers", 1) not in asked
    assert model(IDS, rngs=nnx.Rngs(dropout=KEY)).shape == (1, 5, 4)


class Tagged:
    def __init_subclass__(cls, *, tag):
        super().__init_subclass__()
        cls.tag = tag


class First(Tagged, nnx.Linear, tag=1):
    pass


class Last(nnx.Linear, Tagged, tag=2):
    """Flax's own hook runs that of Tagged."""


def test_a_class_that_needs_arguments_to_be_derived_from():
    model = nnx.Sequential(First(3, 3, rngs=nnx.Rngs(0)))
    insert(model, First, Dropout(1.0))
    np.testing.assert_array_equal(model(X, rngs=nnx.Rngs(dropout=KEY)), jnp.zeros((4, 3)))
    assert model.layers[0].tag == 1


def test_a_class_that_cannot_be_derived_from_leaves_the_model_as_it_is():
    model = nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), Last(3, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'tag'"):
        insert(model, nnx.Linear, Dropout(0.5))
    assert [type(layer) for layer in model.layers] == [nnx.Linear, Last]
    assert not any(hasattr(layer, "inserted") for layer in model.layers)


def test_a_model_can_be_pickled():
    model = nnx.Sequential(nnx.Linear(3, 3, rngs=nnx.Rngs(0)))
    insert(model, nnx.Linear, Dropout(0.5, rngs=nnx.Rngs(dropout=1)))
    again = pickle.loads(pickle.dumps(model))
    assert type(again.layers[0]) is type(model.layers[0])
    np.testing.assert_array_equal(again(X), model(X))


def test_with_drop_in():
    model = mlp()
    insert(model, after=nnx.Linear, layer=nnx.Dropout(0.5, rngs=nnx.Rngs(dropout=1)))
    expected = nnx.clone(model)(X)
    assert [*drop_in(model).reached] == [(*path, "inserted") for path in PATHS]
    np.testing.assert_array_equal(nnx.clone(model)(X), expected)


def twice():
    model = mlp()
    insert(model, lambda path, _: path == ("layers", 2), Dropout(0.5))
    try:
        insert(model, nnx.Linear, Dropout(0.5))
    finally:
        assert not hasattr(model.layers[0], "inserted")


OTHERS = {
    "TokenDropout": TokenDropout(0.5, mask_id=0),
    "EmbeddingDropout": EmbeddingDropout(0.5),
    "PatchDropout": PatchDropout(0.5),
    "ConditionDropout": ConditionDropout(0.5),
}
WHAT = (
    "a flax.nnx.Dropout, a regularizer of flax_spatialdrop.nnx that maps the output of a layer to "
    "an array of its shape"
)
AFTER = "after must be a class, a tuple of classes, or a function of a path and a module: got"
ERRORS = [
    (
        lambda: insert("model", nnx.Linear, Dropout(0.5)),
        TypeError,
        "model must be an instance of nnx.Module: got 'model'; for Linen, call the model in the "
        "context flax_spatialdrop.linen.insert(...)",
    ),
    (lambda: insert(mlp(), 3, Dropout(0.5)), TypeError, f"{AFTER} 3"),
    (lambda: insert(mlp(), mlp(), Dropout(0.5)), TypeError, f"{AFTER} a value of type Sequential"),
    (
        lambda: insert(mlp(), nnx.Conv, Dropout(0.5)),
        ValueError,
        "after must match a module of the model: got the class Conv, and the model has 'Linear', "
        "'Sequential'",
    ),
    (
        lambda: insert(Dropout(0.5), nnx.Module, Dropout(0.5)),
        ValueError,
        "after must match a module of the model: got the class Module, and the model has no "
        "modules that can be called",
    ),
    (
        lambda: insert(mlp(), nnx.Linear, Dropout),
        TypeError,
        f"layer must be {WHAT}, or a function of a path: got the class Dropout",
    ),
    (
        lambda: insert(mlp(), nnx.Linear, mlp()),
        TypeError,
        f"layer must be {WHAT}, or a function of a path: got a value of type Sequential",
    ),
    (
        lambda: insert(mlp(), nnx.Linear, fs.linen.Dropout(0.5)),
        TypeError,
        f"layer must be {WHAT}, or a function of a path: got a value of type Dropout",
    ),
    *(
        (
            lambda layer=layer: insert(mlp(), nnx.Linear, layer),
            TypeError,
            f"layer must be {WHAT}, or a function of a path: got a value of type {name}",
        )
        for name, layer in OTHERS.items()
    ),
    (
        lambda: insert(mlp(), nnx.Linear, lambda path: 0.5),
        TypeError,
        f"layer must return {WHAT}, or None: got 0.5 for the path ('layers', 0)",
    ),
    (
        twice,
        ValueError,
        "insert puts one layer behind a module, as its attribute 'inserted': got Linear at "
        "('layers', 2), which has that attribute already",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=exactly(message)):
        call()
