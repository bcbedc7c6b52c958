"""The checks of options when a module is made, in Linen and NNX, and its needs at a call."""

import inspect
from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop.linen
import flax_spatialdrop.nnx

X = jnp.ones((2, 3, 4))
FACES = {"linen": flax_spatialdrop.linen, "nnx": flax_spatialdrop.nnx}
NEEDED = {"TokenDropout": {"mask_id": 0}, "ResidualDropPath": {"branch": jnp.tanh}}
MODULES = {
    f"{face}.{name}": (cls, NEEDED.get(name, {}))
    for face, package in FACES.items()
    for name, cls in vars(package).items()
    if inspect.isclass(cls)
    and {"rate", "rng_collection"} <= {*inspect.signature(cls.__init__).parameters}
}
each_module = pytest.mark.parametrize(("cls", "needed"), MODULES.values(), ids=MODULES)


def test_all_modules_are_here():
    assert len(MODULES) == 2 * 21


@each_module
def test_a_number_that_is_no_rate(cls, needed):
    for rate in (-0.1, 1.5, 2, np.float32(7), float("nan")):
        with pytest.raises(ValueError, match=r"\Arate is the probability to drop and must be in"):
            cls(rate=rate, **needed)
    with pytest.raises(TypeError, match=r"\Arate is .* scalar array: got '0.5'\Z"):
        cls(rate="0.5", **needed)


@each_module
def test_rates_that_a_call_may_give_or_know(cls, needed):
    for rate in (None, 0, 1.0, np.float32(0.5), jnp.float32(7)):
        module = cls(rate=rate, **needed)
        assert module.rate is rate
        if "linen" in cls.__module__:
            assert module.clone().rate is rate
    jax.eval_shape(lambda rate: cls(rate=rate, **needed) and rate, jnp.float32(0.5))


SWITCHES = ["deterministic", "scale", "per_channel", "per_sample", "joint", "keep_one"]


@each_module
def test_what_is_no_branch(cls, needed):
    if needed.keys() == {"branch"}:
        with pytest.raises(TypeError, match=r"\Abranch must be a function of x .*: got 0.5\Z"):
            cls(0.5, jnp.tanh)


@each_module
def test_options_of_another_kind(cls, needed):
    options = inspect.signature(cls.__init__).parameters
    for name in options.keys() & {*SWITCHES}:
        for value in ("False", b"False", 0, 0.5, {}, object()):
            with pytest.raises(TypeError, match=rf"\A{name} must be True or False: got "):
                cls(rate=0.5, **needed, **{name: value})
    for name in options.keys() & {"noise_shape", "broadcast_dims"}:
        for value in ("abc", 3, {1}, 0.5):
            with pytest.raises(TypeError, match=rf"\A{name} must be a tuple .*: got "):
                cls(rate=0.5, **needed, **{name: value})
    for name in options.keys() & {"data_format", "mode", "normalize"}:
        for value in ("last", 3, X):
            with pytest.raises((TypeError, ValueError), match=rf"\A{name} must be '"):
                cls(rate=0.5, **needed, **{name: value})
    with pytest.raises(TypeError, match=r"\Arng_collection must be a string: got 3\Z"):
        cls(rate=0.5, **needed, rng_collection=3)


@each_module
def test_a_traced_deterministic_is_refused_where_the_module_is_made(cls, needed):
    with pytest.raises(TypeError, match=r"\Adeterministic must be a Python bool, known when trac"):
        jax.eval_shape(lambda off: cls(rate=0.5, deterministic=off, **needed) and off, True)


@each_module
def test_an_error_of_python_s_names_the_class(cls, needed):
    with pytest.raises(TypeError, match=rf"\A{cls.__name__}.__init__\(\) got an unexpected"):
        cls(rate=0.5, **needed, p=0.5)
    if "nnx" in cls.__module__:  # in Linen, Flax's constructor does not name the class
        with pytest.raises(TypeError, match=rf"\A{cls.__name__}.__init__\(\) takes"):
            cls(0.5, *range(30))


RECURRENT = {
    "linen.GRU": partial(flax_spatialdrop.linen.GRU, 4),
    "linen.RNN": partial(flax_spatialdrop.linen.RNN, flax.linen.GRUCell(4)),
    "nnx.GRU": partial(flax_spatialdrop.nnx.GRU, 3, 4, rngs=nnx.Rngs(0)),
    "nnx.RNN": partial(flax_spatialdrop.nnx.RNN, nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))),
}


@pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
def test_options_of_recurrent_layers(make):
    for name in ("dropout", "recurrent_dropout"):
        with pytest.raises(ValueError, match=rf"\A{name} is the probability to drop and must be"):
            make(**{name: 1.5})
    for name in ("per_gate", "time_major", "return_carry", "reverse", "keep_order"):
        with pytest.raises(TypeError, match=rf"\A{name} must be True or False: got 'False'\Z"):
            make(**{name: "False"})
    with pytest.raises(ValueError, match=r"\Avariant must be 'variational', "):
        make(variant="gal")
    with pytest.raises(ValueError, match=r"\Aunroll must be at least 1: got 0\Z"):
        make(unroll=0)
    with pytest.raises(TypeError, match=r"\Arng_collection must be a string: got 3\Z"):
        make(rng_collection=3)


@pytest.mark.parametrize("face", FACES)
def test_switches_of_a_bidirectional_layer(face):
    with pytest.raises(TypeError, match=r"\Atime_major must be True or False: got 'False'\Z"):
        FACES[face].Bidirectional(RECURRENT[f"{face}.GRU"](), time_major="False")


@pytest.mark.parametrize("name", ["rate", "noise_shape", "deterministic", "rng_collection"])
def test_nnx_says_which_argument_holds_arrays(name):
    message = rf"\A{name} must not be arrays in a container: got a tuple of 2 entries\Z"
    with pytest.raises(TypeError, match=message):
        flax_spatialdrop.nnx.Dropout(**{"rate": 0.5, name: (X, X)})
    with pytest.raises(TypeError, match=r"\Amask_id must not be arrays in a container: got \(an"):
        flax_spatialdrop.nnx.TokenDropout(0.5, mask_id=[jnp.int32(1)])
    derived = flax_spatialdrop.nnx.Dropout(0.5)
    with pytest.raises(ValueError, match="Found data on value"):  # the message of Flax
        derived.of_the_user = (X, X)


def test_attributes_of_a_user_s_class_are_not_checked_as_ours():
    class Linen(flax_spatialdrop.linen.Dropout):
        scale: float = 2.0
        mode: str = "mine"

    class NNX(flax_spatialdrop.nnx.Dropout):
        def __init__(self, rate):
            self.scale = nnx.Param(jnp.ones(3))
            self.mode = "mine"
            super().__init__(rate)

    class Recurrent(flax_spatialdrop.linen.GRU):
        n_init: int = 3

    assert Linen(0.5).mode == NNX(0.5).mode == "mine"
    assert Recurrent(4).n_init == 3


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("HeadDropout", {"head_axis": "x"}),
        ("Cutout", {"num_blocks": "x"}),
        ("TokenDropout", {"mask_id": "x"}),
        ("PatchDropout", {"num_keep": "x", "rate": None}),
        ("PatchDropout", {"num_prefix_tokens": "x"}),
    ],
)
def test_a_count_that_is_no_whole_number(face, name, options):
    (option, _), *_ = options.items()
    with pytest.raises(TypeError, match=rf"\A{option} must be an integer: got 'x'\Z"):
        getattr(FACES[face], name)(**{"rate": 0.5} | options)


@pytest.mark.parametrize("face", FACES)
def test_only_an_option_whose_default_is_none_may_be_none(face):
    with pytest.raises(TypeError, match=r"\Ascale must be True or False: got None\Z"):
        FACES[face].DropPath(0.5, scale=None)
    with pytest.raises(TypeError, match=r"\Abranch must be a function"):
        FACES[face].ResidualDropPath(None, 0.5)
    assert FACES[face].DropBlock(0.5, normalize=None).normalize is None


@pytest.mark.parametrize("value", [np.array(True), np.True_, jnp.array(True)], ids=repr)
def test_a_switch_may_be_an_array_of_no_axes(value):
    module = flax_spatialdrop.nnx.DropPath(0.5, scale=value)
    assert module.scale is True
    y = nnx.jit(lambda module, x: module(x, rngs=jax.random.key(0)))(module, X)
    np.testing.assert_array_equal(y, module(X, rngs=jax.random.key(0)))
    assert flax_spatialdrop.linen.DropPath(0.5, scale=value).scale is True


def test_numpy_s_noise_shapes_and_sizes_are_no_state():
    assert flax_spatialdrop.nnx.Cutout(0.5, block_size=np.array([2, 3])).block_size == (2, 3)
    module = flax_spatialdrop.nnx.Dropout(0.5, noise_shape=np.array([2, 1, 4]))
    assert module.noise_shape == (2, 1, 4)
    assert jax.tree.leaves(nnx.state(module)) == []


class Rate(flax_spatialdrop.nnx.Dropout):
    """A class whose constructor does not call that of its base, as classes of users may do."""

    def __init__(self, rate, rngs):
        self.rate = rate
        self.rngs = rngs


class Layout(flax_spatialdrop.nnx.SpatialDropout1D):
    def __init__(self, rate, rngs):
        self.rate = rate
        self.rngs = rngs


class Blocks(flax_spatialdrop.nnx.DropBlock):
    def __init__(self, rate, rngs):
        self.rate = rate
        self.rngs = rngs


class Recurrent(flax_spatialdrop.nnx.GRU):
    def __init__(self, rate, rngs):
        self.cell = nnx.GRUCell(4, 4, rngs=nnx.Rngs(0))
        self.dropout = rate
        self.rngs = rngs


def test_a_derived_recurrent_layer_that_does_not_call_our_constructor():
    y = Recurrent(0.5, nnx.Rngs(dropout=0))(X)
    base = flax_spatialdrop.nnx.GRU(4, 4, dropout=0.5, rngs=nnx.Rngs(0), dropout_rngs=False)
    np.testing.assert_array_equal(y, base(X, rngs=nnx.Rngs(dropout=0)))
    layer = Recurrent(0.5, None)
    layer.eval()
    base.eval()
    np.testing.assert_array_equal(layer(X), base(X))


@pytest.mark.parametrize("cls", [Rate, Layout, Blocks])
def test_a_derived_class_that_does_not_call_our_constructor(cls):
    x, (base,) = jnp.ones((2, 9, 8, 4) if cls is Blocks else X.shape), cls.__bases__
    y = cls(0.5, nnx.Rngs(dropout=0))(x)
    np.testing.assert_array_equal(y, base(0.5)(x, rngs=nnx.Rngs(dropout=0)))
    layer = cls(0.5, None)
    layer.eval()
    assert layer(x) is x


def test_linen_says_what_to_pass_for_a_missing_stream():
    message = (
        "SpatialDropout1D draws a mask and needs a key of the stream 'noise': got none; pass "
        "rngs={'noise': key} to apply, or rng=key at the call, or set deterministic=True"
    )
    layer = flax_spatialdrop.linen.SpatialDropout1D(0.5, rng_collection="noise")
    for method in ("__call__", "sample_mask"):
        with pytest.raises(flax.errors.InvalidRngError) as caught:
            layer.apply({}, X, False, method=method)
        (told,) = str(caught.value).splitlines()  # Flax adds a link
        assert told.startswith(message)
        assert len(told) < 400


def test_nnx_says_what_to_pass_for_a_missing_stream():
    cls = flax_spatialdrop.nnx.SpatialDropout1D
    told = "SpatialDropout1D draws a mask with a key of the stream 'dropout' of rngs: got "
    for rngs, got in (
        (nnx.Rngs(params=0, noise=1), "those of ('params', 'noise')"),
        (nnx.Rngs(), "none at all"),
    ):
        for call in (partial(cls, 0.5, rngs=rngs), partial(cls(0.5), X, rngs=rngs)):
            with pytest.raises(KeyError) as caught:
                call()
            assert caught.value.args == (f"{told}{got}; pass nnx.Rngs of that stream",)


def test_what_is_no_key_at_a_call_is_named_as_the_host_names_it():
    keys = jax.random.split(jax.random.key(0))
    message = r"\A{} must be one PRNG key: got keys of shape \(2,\)"
    with pytest.raises(ValueError, match=message.format("rng")):
        flax_spatialdrop.linen.Dropout(0.5).apply({}, X, False, keys)
    with pytest.raises(ValueError, match=message.format("rngs")):
        flax_spatialdrop.nnx.Dropout(0.5)(X, rngs=keys)


def test_long_names_are_shortened():
    stream = "stream" * 100
    with pytest.raises(flax.errors.InvalidRngError) as caught:
        flax_spatialdrop.linen.Dropout(0.5, rng_collection=stream).apply({}, X, False)
    assert len(str(caught.value)) < 400
    with pytest.raises(KeyError) as missing:
        flax_spatialdrop.nnx.Dropout(0.5, rng_collection=stream)(X, rngs=nnx.Rngs(params=0))
    assert len(str(missing.value)) < 400
    with pytest.raises(TypeError, match="num_keep must be an integer: got a value of type Lin"):
        flax_spatialdrop.nnx.PatchDropout(0.5, num_keep=nnx.Linear(2, 2, rngs=nnx.Rngs(0)))(X)
