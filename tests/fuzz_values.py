"""The arguments of the fuzzer: valid ones by name, and awkward ones by kind.

Every value is a function without arguments, which is called where the value is used: stateful
objects of Flax must be made inside of the trace that uses them, and arrays outside of it.
"""

import decimal
import fractions
import inspect
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import flax_spatialdrop.linen
import flax_spatialdrop.nnx

RESULTS = {
    "DropInReport",
    "MonteCarlo",
    "RecurrentMasks",
    "Site",
    "Summary",
}  # users do not make these


def constant(value):
    return lambda: value


def constants(**values):
    return {name: constant(value) for name, value in values.items()}


def ones(*shape, dtype=np.float32):
    return jnp.ones(shape, dtype)


KEY, IDS = jax.random.key(0), jnp.zeros((2, 3), np.int32)
IMAGE, VOLUME, HEADS = ones(2, 4, 4, 3), ones(2, 2, 2, 2, 3), ones(2, 3, 2, 4)
STATE = ones(2, 3)

BY_NAME = constants(
    key=KEY,
    x=ones(2, 3, 4),
    inputs=ones(2, 3, 4),
    args=ones(2, 3, 4),
    rate=0.5,
    max_rate=0.5,
    depth=3,
    mask=ones(2, 3, 4, dtype=bool),
    mask_or_output=ones(2, 3, dtype=bool),
    weights={"a": {"kernel": ones(2, 3)}, "b": ones(3)},
    ids=IDS,
    axis_names=(),
    mask_id=3,
    table=ones(5, 4),
    shape=(2, 3, 4),
    noise_shape=(2, 3, 4),
    start=(0, 1, 0),
    sizes=(1, 2, 4),
    batch=2,
    features=3,
    num_samples=2,
    apply=lambda key: jax.random.normal(key, (3,)),
    branch=jnp.sin,
    joint_rate=0.5,
    num=3,
    previous=ones(2, 3, 4),
    query=HEADS,
    value=HEADS,
    dropout_rng=KEY,
    dropout_rate=0.5,
    in_features=4,
    hidden_features=3,
    deterministic=False,
) | {"rngs": lambda: nnx.Rngs(0)}
"""Values for required parameters, by name."""

OTHERS = {
    "apply_mask": constants(mask=ones(2, 3, 4, dtype=bool)),
    "condition_dropout": constants(condition=IDS, inputs=IDS, null=9),
    "cutout": constants(x=IMAGE, inputs=IMAGE, block_size=2),
    "drop_block": constants(x=IMAGE, inputs=IMAGE, block_size=2),
    "embedding_dropout": constants(inputs=ones(5, 4), ids=IDS),
    "embedding_noise": constants(alpha=5.0),
    "explain": constants(noise_shape=(None, 1, 4)),
    "head_dropout": constants(x=HEADS, inputs=HEADS),
    "modality_dropout": constants(inputs={"a": ones(2, 3), "b": {"c": IDS, "d": ones(2)}}),
    "patch_dropout": constants(rate=0.5),
    "patch_mask": constants(indices=IDS, num_patches=9),
    "plot_mask": constants(shape=(2, 3)),
    "restore_patches": constants(y=ones(*IDS.shape, 3), indices=IDS, num_patches=9),
    "scale_rates": constants(scale=0.5),
    "span_mask": constants(lengths=4, max_length=4, num=1, max_width=2),
    "spatial_dropout_2d": constants(x=IMAGE, inputs=IMAGE),
    "spatial_dropout_3d": constants(x=VOLUME, inputs=VOLUME),
    "token_dropout": constants(inputs=IDS),
    "zoneout": constants(previous=ones(2, 3, 4)),
    "dot_product_attention": constants(key=HEADS, dropout_rng=KEY, dropout_rate=0.5),
    "blockwise_attention": constants(key=HEADS, dropout_rng=KEY, dropout_rate=0.5),
}
"""Values for single functions, which are added to those above or replace them."""

NETWORKS = {
    "linen": {
        "drop_in": constants(broadcast_dims=(1,)),
        "insert": constants(after=nn.Dense, layer=nn.Dropout(0.5, deterministic=False)),
        "summarize": constants(model=nn.Dropout(0.5, deterministic=False), rngs={"dropout": KEY}),
        "ResidualDropPath": constants(branch=nn.Dense(4)),
        "RNN": {"cell": lambda: nn.GRUCell(3)},
        "Bidirectional": {
            "forward_rnn": lambda: flax_spatialdrop.linen.GRU(3, dropout=0.5),
            "backward_rnn": lambda: flax_spatialdrop.linen.GRU(3, dropout=0.5),
        },
    },
    "nnx": {
        "drop_in": {"model": lambda: nnx.Dropout(0.5, rngs=nnx.Rngs(0))},
        "insert": {
            "model": lambda: nnx.Linear(4, 4, rngs=nnx.Rngs(0)),
            "after": lambda: nnx.Linear,
            "layer": lambda: nnx.Dropout(0.5, rngs=nnx.Rngs(0)),
        },
        "summarize": {"model": lambda: nnx.Dropout(0.5, rngs=nnx.Rngs(0))},
        "ResidualDropPath": {"branch": lambda: nnx.Linear(4, 4, rngs=nnx.Rngs(0))},
        "RNN": {"cell": lambda: nnx.GRUCell(4, 3, rngs=nnx.Rngs(0))},
        "Bidirectional": {
            "forward_rnn": lambda: flax_spatialdrop.nnx.GRU(4, 3, rngs=nnx.Rngs(0)),
            "backward_rnn": lambda: flax_spatialdrop.nnx.GRU(4, 3, rngs=nnx.Rngs(0)),
        },
    },
}
RECURRENT = {"LSTM", "GRU", "SimpleRNN", "RNN"}


class LongWinded:
    def __repr__(self):
        return "a value that\nsays too much, " * 100


class Odd:
    """Raises when it is compared, or converted to a bool."""

    def __eq__(self, other):
        raise ArithmeticError("no equality")

    def __bool__(self):
        raise ArithmeticError("no truth value")

    __hash__ = None


def returns_nothing(*args, **kwargs):
    return None


def returns_text(*args, **kwargs):
    return "text"


def of_each_dtype():
    names = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
    for name in [*names.split(), "complex64", "complex128", "longdouble", "clongdouble"]:
        yield np.dtype(name)
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "int4", "uint4"):
        yield np.dtype(getattr(jnp, name))


DTYPES = list(of_each_dtype())
STRUCTURED = np.zeros((2, 3, 4), [("a", np.float32), ("b", np.int32)])
KINDS = {
    "None": [None],
    "bool": [True, False, np.True_, np.False_],
    "int": [0, 1, 2, 3, 4, 7, -1, -2, -7],
    "huge int": [2**31, 2**32 + 1, 2**40, 2**63, 10**30, 10**400, -(10**400)],
    "numpy int": [np.dtype(d).type(n) for d in DTYPES[1:9] for n in (0, 1, 2, 100)],
    "float": [0.0, -0.0, 1.0, 0.3, 1e-30, -0.3, 1.5, 2.0, float("nan"), float("inf")],
    "numpy float": [d.type(0.5) for d in DTYPES if d.kind == "f"] + [np.float64("nan")],
    "complex": [0.5j, np.complex64(1)],
    "Fraction": [fractions.Fraction(1, 3), fractions.Fraction(7, 2)],
    "Decimal": [decimal.Decimal("0.5"), decimal.Decimal("NaN"), decimal.Decimal("sNaN")],
    "str": [
        "",
        "False",
        "dropout",
        "0.5",
        "mean",
        "row",
        "channels_first",
        "(",
        "\N{SNOWMAN}" * 1000,
    ],
    "bytes": [b"", b"False", bytearray(b"ab")],
    "tuple": [(), (1,), (0, 1), (1, 2, 3), (1, None, 4), (None, None, None), ("a", "b"), (0.5,)],
    "list": [[], [1], [0.5, 0.5], [1, 1, 1], [None, 1, None], [[1, 2], [3]], [object()]],
    "nested tuple": [((1, 2), (3,)), ((), ()), (None, (1,)), ((0, 1, 2),) * 3],
    "tuple of numpy": [tuple(np.arange(3)), (np.uint8(1),) * 3, (np.float32(1),) * 3],
    "tuple of arrays": [(np.ones(2),) * 2, (ones(2, 3), ones(2, 3)), (jnp.int32(1),) * 3],
    "long": [(1,) * 1000, list(range(1000)), {i: i for i in range(1000)}, "line\n" * 100],
    "dict": [{}, {"a": 1}, {"dropout": KEY}, {1: 2}],
    "set": [set(), {1, 2}, frozenset({0})],
    "range": [range(0), range(3), slice(1, 2), ...],
    "object": [object(), NotImplemented, type("Plain", (), {})(), LongWinded(), Odd()],
    "function": [len, abs, lambda: 0, jnp.sin, jax.jit(jnp.cos)],
    "function of nonsense": [returns_nothing, returns_text],
    "class": [int, object, nnx.Rngs, np.float32, flax_spatialdrop.nnx.Dropout, jnp.float16],
    "dtype": [np.dtype(np.float32), jnp.bfloat16, jnp.dtype("int8")],
    "pattern": [re.compile("a"), re.compile("none of them")],
    "scalar of a dtype": [np.zeros((), d) for d in DTYPES],
    "jax scalar": [jnp.float32(0.5), jnp.float32(jnp.nan), jnp.int32(1), jnp.bool_(True)],
    "array of a dtype": [np.ones((2, 3, 4), d) for d in DTYPES],
    "jax array": [jnp.ones((2, 3, 4), d) for d in DTYPES if d.itemsize < 8],
    "array of a rank": [np.ones((2,) * rank, np.float32) for rank in range(7)],
    "jax array of a rank": [ones(*(2,) * rank) for rank in range(7)],
    "bool array of a rank": [ones(*(1,) * rank, dtype=bool) for rank in range(7)],
    "int array": [np.arange(3), IDS, jnp.arange(3, dtype=np.uint8), np.array([-1, 10**9])],
    "empty array": [np.ones((0,)), ones(0, 3, 4), ones(2, 0, 4), ones(2, 3, 0), ones(0, 0)],
    "object array": [np.array([None, "a"]), np.full((2, 3, 4), None), np.array(object())],
    "str array": [np.array("a"), np.array(["a", "b"]), np.array(b"x"), np.array("mean")],
    "date array": [np.array("2020-01-01", "M8[D]"), np.zeros((2, 3, 4), "m8[s]")],
    "structured array": [STRUCTURED, STRUCTURED[0, 0, 0], STRUCTURED.view(np.recarray)],
    "masked array": [np.ma.masked_array(np.ones((2, 3, 4), np.float32), False), np.ma.masked],
    "matrix": [np.ma.ones((2, 3, 4), np.float32).filled().view(type("Sub", (np.ndarray,), {}))],
    "memoryview": [memoryview(b"abc"), memoryview(np.ones((2, 3)))],
    "typed key": [KEY, jax.random.key(1, impl="rbg"), jax.random.key(1, impl="unsafe_rbg")],
    "keys": [jax.random.split(jax.random.key(0), shape) for shape in (2, (2, 0), (2, 2))],
    "legacy key": [jax.random.PRNGKey(0), np.array([0, 1], np.uint32), jnp.zeros(4, np.uint32)],
    "legacy keys": [jnp.zeros((2, 2), np.uint32), jnp.zeros(3, np.uint32), np.zeros(2, np.int32)],
    "ShapeDtypeStruct": [jax.ShapeDtypeStruct((2, 3, 4), np.float32), jax.eval_shape(lambda: KEY)],
}
POOL = {kind: [constant(value) for value in values] for kind, values in KINDS.items()} | {
    "nnx.Rngs": [lambda: nnx.Rngs(0), lambda: nnx.Rngs(params=0), lambda: nnx.Rngs(0).dropout],
    "nnx module": [
        lambda: nnx.Linear(4, 4, rngs=nnx.Rngs(0)),
        lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
        lambda: nnx.Dropout(0.5, rngs=nnx.Rngs(0)),
        lambda: nnx.GRUCell(4, 3, rngs=nnx.Rngs(0)),
        lambda: flax_spatialdrop.nnx.LSTM(4, 3, rngs=nnx.Rngs(0)),
    ],
    "linen module": [
        lambda: nn.Dense(4),
        lambda: nn.Dense(2),
        lambda: nn.Dropout(0.5),
        lambda: nn.GRUCell(3),
        lambda: flax_spatialdrop.linen.LSTM(3),
    ],
    "nnx.Variable": [
        lambda: nnx.Param(ones(2, 3, 4)),
        lambda: nnx.Param(jnp.float32(0.5)),
        lambda: nnx.Variable("text"),
        lambda: nnx.Variable(3),
    ],
    "tracer": [
        lambda: jnp.ones((2, 3, 4)),
        lambda: jnp.float32(0.5) + 0,
        lambda: jnp.ones(()) > 0,
        lambda: jnp.arange(3) + 0,
        lambda: jnp.int32(1) + 0,
        lambda: jax.random.split(KEY)[0],
    ],
}

HINTS = [
    ("near: other dtype", lambda x, r: np.asarray(x).astype(r.choice(DTYPES))),
    ("near: jax, other dtype", lambda x, r: jnp.asarray(x).astype(r.choice(DTYPES[:14]))),
    ("near: added axis", lambda x, r: x[None]),
    ("near: first of it", lambda x, r: x[0]),
    ("near: reshaped", lambda x, r: x.reshape(-1)),
    ("near: cut", lambda x, r: x[..., :1]),
    ("near: doubled", lambda x, r: jnp.concatenate([x, x], r.choice([0, -1]))),
    ("near: traced", lambda x, r: x + 0),
    ("near: list", lambda x, r: np.asarray(x).tolist()),
    ("near: masked", lambda x, r: np.ma.masked_array(np.asarray(x), np.asarray(x) > 2)),
    ("near: form", lambda x, r: jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x))),
    ("near: variable", lambda x, r: nnx.Param(x)),
    ("near: object", lambda x, r: np.asarray(x).astype(object)),
    ("near: text", lambda x, r: str(x)),
    ("near: in a tuple", lambda x, r: (x,)),
    ("near: in an array", lambda x, r: np.array([x])),
    ("near: numpy", lambda x, r: np.asarray(x)),
    ("near: minus", lambda x, r: -x),
    ("near: times", lambda x, r: x * r.choice([2, 3, 1000, 10**12])),
    ("near: partial", lambda x, r: lambda *args, **kwargs: x),
]
"""Values that are computed from a valid one. If that fails, the valid one is used."""


def parameters(function):
    """Returns the names of the parameters of a function, and of those that are required."""
    found = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in {"self", "parent", "name"} and parameter.kind.name[:3] != "VAR"
    }
    return list(found), [name for name, p in found.items() if p.default is p.empty]
