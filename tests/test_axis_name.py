"""Modules whose masks differ along mapped axes: `axis_name`, in Linen and NNX."""

import hashlib
import inspect
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import Literal
from jax.random import clone
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from flax_spatialdrop import dropout, fold_in_axes

from .errors import exactly

KEY = jax.random.key(41)
X = jnp.ones((2, 4, 3))
IDS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]])
NEEDED = {  # what a module needs besides a rate, in both hosts
    "EmbeddingNoise": {"alpha": 5.0},
    "ResidualDropPath": {"branch": jnp.tanh, "mode": "batch"},
    "SpecAugment": {"max_time_width": 2, "max_freq_width": 2},
    "TokenDropout": {"mask_id": 0},
    "ConditionDropout": {"null": 0.0},
    "DropBlock": {"block_size": (2,)},
    "Cutout": {"block_size": 2},
    "ModalityDropout": {"rate": {"image": 0.5, "sound": 0.4}},
}
INPUTS = {
    "Cutout": jnp.ones((2, 4, 4, 3)),
    "EmbeddingDropout": jnp.ones((5, 3)),
    "HeadDropout": jnp.ones((2, 4, 3, 2)),
    "ModalityDropout": {"image": X, "sound": X + 1},
    "SpatialDropout2D": jnp.ones((2, 4, 4, 3)),
    "SpatialDropout3D": jnp.ones((2, 4, 4, 4, 3)),
    "TokenDropout": IDS,
}
RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN")
CELLS = {
    "linen": lambda cls: (nn.GRUCell(3) if cls is flax_spatialdrop.linen.RNN else 3,),
    "nnx": lambda cls: (
        (nnx.GRUCell(3, 3, rngs=nnx.Rngs(0)),) if cls is flax_spatialdrop.nnx.RNN else (3, 3)
    ),
}
PACKAGES = {"linen": flax_spatialdrop.linen, "nnx": flax_spatialdrop.nnx}
NAMES = [
    name
    for name, cls in vars(flax_spatialdrop.linen).items()
    if inspect.isclass(cls) and "rng_collection" in inspect.signature(cls.__init__).parameters
]


def make(face, name, **options):
    """Returns call(key, method="__call__"), of a module with these options."""
    cls, x = getattr(PACKAGES[face], name), INPUTS.get(name, X)
    variables = {}
    if name in RECURRENT:
        if face == "nnx":
            options |= {"rngs": True if name == "RNN" else nnx.Rngs(0), "dropout_rngs": False}
        layer = cls(*CELLS[face](cls), dropout=0.5, recurrent_dropout=0.4, **options)
        if face == "linen":
            variables = layer.init(jax.random.key(0), x, deterministic=True)
    else:
        needed = NEEDED.get(name, {})
        rate = {} if name in ("EmbeddingNoise", "SpecAugment") else {"rate": 0.5}
        layer = cls(**rate | needed | options)
    if face == "linen":
        return lambda key, method="__call__": layer.apply(
            variables, x, deterministic=False, rng=key, method=method
        )
    return lambda key, method="__call__": getattr(layer, method)(x, rngs=key)


def program(f):
    """Returns f's program as the expressions of its outputs, in which the order has no meaning."""
    closed = jax.make_jaxpr(f, axis_env=[("data", 3), ("model", 2)])(KEY)
    inputs = [*closed.jaxpr.invars, *closed.jaxpr.constvars]
    found = dict(
        zip(inputs, ["key", *(np.asarray(c).tobytes() for c in closed.consts)], strict=True)
    )
    for equation in closed.jaxpr.eqns:
        operands = [str(v) if isinstance(v, Literal) else found[v] for v in equation.invars]
        text = f"{equation.primitive} {sorted(equation.params.items())} {operands}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        found |= {v: f"{i} {digest}" for i, v in enumerate(equation.outvars)}
    return [found.get(v, str(v)) for v in closed.jaxpr.outvars]


def folded(call, axes, method, key):
    return call(fold_in_axes(key, axes), method)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("face", PACKAGES)
def test_axes_are_folded_into_the_key(face, name):
    """Compares programs without running them, since the same program returns the same bits."""
    for axes in ("data", ("model", "data")):
        along, plain = make(face, name, axis_name=axes), make(face, name)
        masks = "sample_masks" if name in RECURRENT else "sample_mask"
        for method in ("__call__", *[masks] * (name not in ("PatchDropout", "ResidualDropPath"))):
            found = program(partial(along, method=method))
            assert found == program(partial(folded, plain, axes, method))
            assert found != program(partial(plain, method=method))


def test_every_module_that_draws_is_here():
    public = {name for name, cls in vars(flax_spatialdrop.nnx).items() if inspect.isclass(cls)}
    assert {*NAMES} == public - {"Bidirectional"}  # whose two layers draw


@pytest.mark.parametrize("face", PACKAGES)
def test_both_directions_of_a_bidirectional_layer_fold_axes_in(face):
    if face == "linen":
        layer = flax_spatialdrop.linen.Bidirectional(
            flax_spatialdrop.linen.GRU(3, dropout=0.5, axis_name="data")
        )
        draw = partial(layer.apply, {}, X, deterministic=False, method="sample_masks")
        masks = jax.vmap(lambda key, _: draw(rng=key), (None, 0), axis_name="data")
    else:
        layer = flax_spatialdrop.nnx.Bidirectional(
            flax_spatialdrop.nnx.GRU(3, 3, dropout=0.5, axis_name="data", rngs=nnx.Rngs(0))
        )
        draw = partial(layer.sample_masks, X)
        masks = jax.vmap(lambda key, _: draw(rngs=key), (None, 0), axis_name="data")
    for direction in masks(clone(KEY), jnp.ones(9)):
        assert len(np.unique(direction.inputs.reshape(9, -1), axis=0)) > 1


@pytest.mark.parametrize("face", PACKAGES)
@pytest.mark.parametrize("name", ["dot_product_attention", "blockwise_attention"])
def test_attention_folds_axes_into_its_key(face, name):
    attention, x = getattr(PACKAGES[face], name), jnp.ones((1, 4, 2, 3))
    run = partial(attention, x, x, x, dropout_rate=0.5, broadcast_dropout=False)
    found = program(lambda key: run(dropout_rng=key, axis_name="data"))
    assert found == program(lambda key: run(dropout_rng=fold_in_axes(key, "data")))
    assert found != program(lambda key: run(dropout_rng=key))


ROWS = jax.random.normal(jax.random.key(0), (3, 16))


def test_the_stream_of_linen_is_folded():
    layer = flax_spatialdrop.linen.Dropout(0.5, axis_name="data", deterministic=False)
    rngs = {"dropout": clone(KEY)}

    def run(x):
        return layer.apply({}, x, rngs=rngs), layer.apply({}, x, rngs=rngs, method="sample_mask")

    y, mask = jax.vmap(run, axis_name="data")(ROWS)
    key = layer.bind({}, rngs=rngs).make_rng("dropout")
    for i in range(3):
        np.testing.assert_array_equal(y[i], dropout(jax.random.fold_in(key, i), ROWS[i], 0.5))
    np.testing.assert_array_equal(mask, y != 0)


def test_the_stream_of_nnx_is_folded_and_moves_on():
    layer = flax_spatialdrop.nnx.Dropout(0.5, axis_name="data", rngs=nnx.Rngs(dropout=clone(KEY)))
    graph, state = nnx.split(layer)

    def twice(state, x):
        inside = nnx.merge(graph, state)
        return inside(x), inside.sample_mask(x)

    mesh = jax.make_mesh((3,), ("data",), (AxisType.Auto,), devices=jax.devices()[:3])
    f = jax.shard_map(twice, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    y, mask = jax.jit(f)(state, ROWS)
    keys = [layer.rngs(), layer.rngs()]
    for i in range(3):
        first, second = (jax.random.fold_in(key, i) for key in keys)
        np.testing.assert_array_equal(y[i], dropout(first, ROWS[i], 0.5))
        np.testing.assert_array_equal(mask[i], dropout(second, ROWS[i], 0.5) != 0)


class Net(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train=True):
        options = {"axis_name": self.axis_name, "deterministic": not train}
        x = nn.BatchNorm(use_running_average=False, axis_name=self.axis_name)(nn.Dense(4)(x))
        x = flax_spatialdrop.linen.GRU(3, dropout=0.5, **options)(x)
        return flax_spatialdrop.linen.Dropout(0.5, **options)(x)


def test_linen_folds_nothing_in_at_initialization():
    """As Flax's BatchNorm, since models are initialized outside of the mapped function."""
    rngs = {"params": jax.random.key(0), "dropout": clone(KEY)}
    x = jax.random.normal(jax.random.key(1), X.shape)
    y, variables = Net("data").init_with_output(rngs, x)
    expected = Net().init_with_output(rngs, x)
    jax.tree.map(np.testing.assert_array_equal, (y, variables), expected)
    with pytest.raises(NameError, match="data"):  # of BatchNorm, which is called first
        Net("data").apply(variables, x, rngs=rngs, mutable=True)


NOT_BOUND = exactly(
    "axis_name must be axes of an enclosing jax.shard_map, jax.pmap or jax.vmap: got 'data', which "
    "is not bound here; under jax.jit alone no axis is needed, since one key draws one mask for "
    "the whole array"
)


@pytest.mark.parametrize("face", PACKAGES)
@pytest.mark.parametrize("method", ["__call__", "sample_mask"])
def test_an_axis_that_is_not_bound(face, method):
    with pytest.raises(ValueError, match=NOT_BOUND):
        make(face, "SpatialDropout1D", axis_name="data")(clone(KEY), method)


def test_an_axis_of_attention_that_is_not_bound():
    attention = partial(flax_spatialdrop.linen.blockwise_attention, axis_name="data")
    layer = nn.MultiHeadDotProductAttention(1, dropout_rate=0.5, attention_fn=attention)
    variables = layer.init(jax.random.key(0), X, deterministic=True)
    with pytest.raises(ValueError, match=NOT_BOUND):
        layer.apply(variables, X, deterministic=False, rngs={"dropout": clone(KEY)})


def test_no_axis_is_needed_where_nothing_is_drawn():
    mask = jnp.ones((2, 1, 3), bool)
    options = {"rate": 0.5, "axis_name": "data"}
    linen = flax_spatialdrop.linen.SpatialDropout1D(**options)
    linen.apply({}, X, deterministic=False, mask=mask)
    linen.apply({}, X, deterministic=True)
    linen.apply({}, X, deterministic=False, rate=0.0)
    layer = flax_spatialdrop.nnx.SpatialDropout1D(**options)
    layer(X, mask=mask)
    layer(X, deterministic=True)
    layer(X, rate=1.0)
    none = flax_spatialdrop.nnx.SpatialDropout1D(0.5, axis_name=())
    np.testing.assert_array_equal(
        none(X, rngs=clone(KEY)), flax_spatialdrop.nnx.SpatialDropout1D(0.5)(X, rngs=clone(KEY))
    )


@pytest.mark.parametrize("face", PACKAGES)
def test_names_are_checked_when_a_module_is_made(face):
    for cls in (PACKAGES[face].Dropout, PACKAGES[face].SpecAugment):
        options = {"rate": 0.5} if cls.__name__ == "Dropout" else {}
        assert cls(**options, axis_name=("data", "model")).axis_name == ("data", "model")
        told = "axis_name must be the name of a mapped axis, or a tuple of names: got 3"
        with pytest.raises(TypeError, match=exactly(told)):
            cls(**options, axis_name=3)
        told = "axis_name must name each axis once: got ('data', 'data')"
        with pytest.raises(ValueError, match=exactly(told)):
            cls(**options, axis_name=("data", "data"))


def test_inserted_layers_and_layers_of_drop_in():
    drop = flax_spatialdrop.linen.Dropout(0.5, axis_name="data", deterministic=False)
    model, rngs = nn.Dense(16), {"params": clone(KEY), "dropout": clone(KEY)}
    x = jnp.ones((3, 16))
    with flax_spatialdrop.linen.insert(after=nn.Dense, layer=drop):
        variables = model.init(rngs, x)
        y = jax.vmap(lambda _: model.apply(variables, x, rngs=rngs), axis_name="data")(x)
    assert len(np.unique(np.asarray(y).reshape(3, -1) != 0, axis=0)) == 3

    layer = nnx.Dropout(0.5)
    flax_spatialdrop.nnx.drop_in(nnx.Sequential(layer))
    assert layer.axis_name is None
    layer.axis_name = "data"
    y = jax.vmap(lambda x: layer(x, rngs=KEY), axis_name="data")(x)
    assert len(np.unique(y, axis=0)) == 3


@pytest.mark.parametrize("face", PACKAGES)
def test_shards_of_the_batch_differ_and_copies_of_the_model_agree(face):
    """`check_vma` accepts only what agrees along the axis of the model."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), (AxisType.Auto,) * 2)
    options = {"rate": 0.5, "axis_name": "data"}
    if face == "linen":
        layer = flax_spatialdrop.linen.SpatialDropout1D(**options)
        run = lambda key, x: layer.apply({}, x, deterministic=False, rng=key)  # noqa: E731
    else:
        layer = flax_spatialdrop.nnx.SpatialDropout1D(**options)
        run = lambda key, x: layer(x, rngs=key)  # noqa: E731
    f = jax.shard_map(run, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    y = jax.jit(f)(clone(KEY), jnp.ones((4, 2, 16)))
    assert len(np.unique(y[:, 0], axis=0)) == 4
