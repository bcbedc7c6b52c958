"""The recurrent layers of Linen and NNX behind one interface, and the loops of the papers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_spatialdrop.linen
import flax_spatialdrop.nnx

KINDS = ("LSTM", "GRU", "SimpleRNN")
CELLS = {"LSTM": "LSTMCell", "GRU": "GRUCell", "SimpleRNN": "SimpleCell"}
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
FEATURES, HIDDEN = 5, 7


class LinenLayer:
    """A Linen layer whose parameters have no zeros, called as f(x, **options)."""

    def __init__(self, kind, seed=0, **options):
        self.layer = getattr(flax_spatialdrop.linen, kind)(HIDDEN, **options)
        self.host = nn.RNN(getattr(nn, CELLS[kind])(HIDDEN))
        variables = self.host.init(jax.random.key(seed), jnp.ones((1, 1, FEATURES)))
        self.params = jax.tree.map(_shaken, variables)

    def __call__(self, x, params=None, **options):
        options.setdefault("deterministic", None if "masks" not in options else False)
        params = self.params if params is None else params
        return self.layer.apply(params, x, **options)

    def masks(self, x, key, **options):
        return self.layer.apply(
            self.params, x, rng=key, deterministic=False, method="sample_masks", **options
        )

    def drawn(self, x, key, **options):
        return self(x, rng=key, deterministic=False, **options)

    def of_host(self, x, **options):
        return self.host.apply(self.params, x, **options)

    def weights(self):
        cell = self.params["params"]["cell"]
        weights = self.layer._weights(lambda name: (cell[name]["kernel"], cell[name].get("bias")))
        return jax.tree.map(np.asarray, weights)


class NNXLayer:
    """The same for NNX."""

    def __init__(self, kind, seed=0, **options):
        cls = getattr(flax_spatialdrop.nnx, kind)
        options = {"dropout_rngs": False, **options}
        self.layer = cls(FEATURES, HIDDEN, rngs=nnx.Rngs(seed), **options)
        cell = getattr(nnx, CELLS[kind])(FEATURES, HIDDEN, rngs=nnx.Rngs(seed))
        self.host = nnx.RNN(cell, rngs=False)
        nnx.update(self.layer, jax.tree.map(_shaken, nnx.state(self.layer)))
        nnx.update(self.host, nnx.state(self.layer, nnx.Param))
        self.graph, self.params = nnx.split(self.layer)

    def __call__(self, x, params=None, **options):
        layer = nnx.merge(self.graph, self.params if params is None else params)
        if "masks" not in options:
            options.setdefault("deterministic", options.get("rngs") is None)
        return layer(x, **options)

    def masks(self, x, key, **options):
        return self.layer.sample_masks(x, rngs=key, **options)

    def drawn(self, x, key, **options):
        return self(x, rngs=key, **options)

    def of_host(self, x, **options):
        carry = self.host.cell.initialize_carry((x.shape[0], FEATURES), nnx.Rngs(0))
        options.setdefault("initial_carry", carry)
        return self.host(x, **options)

    def weights(self):
        def arrays(name):
            layer = getattr(self.layer.cell, name)
            return layer.kernel[...], None if layer.bias is None else layer.bias[...]

        return jax.tree.map(np.asarray, self.layer._weights(arrays))


def _shaken(leaf):
    return leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)


FACES = {"linen": LinenLayer, "nnx": NNXLayer}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(kind, weights, x, masks, dropout, recurrent_dropout, variant):
    """Computes the papers' equations in float64: outputs [batch, time, hidden], and last carry."""
    gates = GATES[kind]
    wx, wh, bx, bh = (None if w is None else np.asarray(w, np.float64) for w in weights)
    wx, wh = (np.split(w, gates, axis=1) for w in (wx, wh))
    bx, bh = ([0] * gates if b is None else np.split(b, gates) for b in (bx, bh))

    def of_gate(mask, gate, rate, value):
        if mask is None:
            return value
        mask = np.asarray(mask)
        return value * (mask[gate] if mask.ndim == 3 else mask) / (1 - rate)

    state_mask = masks.state if variant == "variational" else None
    h = np.zeros((x.shape[0], HIDDEN))
    c = np.zeros_like(h)
    outputs = []
    for t in range(x.shape[1]):
        a = [of_gate(masks.inputs, g, dropout, x[:, t]) @ wx[g] + bx[g] for g in range(gates)]
        u = [of_gate(state_mask, g, recurrent_dropout, h) @ wh[g] + bh[g] for g in range(gates)]

        def candidate(new):
            if variant != "no_memory_loss" or masks.state is None:
                return new
            return new * np.asarray(masks.state) / (1 - recurrent_dropout)

        if kind == "LSTM":
            i, f, g, o = (a[n] + u[n] for n in range(4))
            new_c = sigmoid(f) * c + sigmoid(i) * candidate(np.tanh(g))
            new_h = sigmoid(o) * np.tanh(new_c)
        elif kind == "GRU":
            r, z = sigmoid(a[0] + u[0]), sigmoid(a[1] + u[1])
            new_c, new_h = c, (1 - z) * candidate(np.tanh(a[2] + r * u[2])) + z * h
        else:
            new_c, new_h = c, np.tanh(a[0] + u[0])
        if variant == "zoneout" and masks.state is not None:
            *of_c, of_h = (np.asarray(mask)[:, t] for mask in masks.state)
            new_h = np.where(of_h, new_h, h)
            new_c = np.where(of_c[0], new_c, c) if of_c else c
        c, h = new_c, new_h
        outputs.append(h)
    return np.stack(outputs, axis=1), (c, h) if kind == "LSTM" else h


KEY = jax.random.key(31)
X = jax.random.normal(jax.random.key(0), (4, 11, FEATURES))
LENGTHS = jnp.array([11, 5, 0, 3])
BOTH = {"dropout": 0.3, "recurrent_dropout": 0.4}

each_face = pytest.mark.parametrize("face", FACES.values(), ids=list(FACES))
one_face = pytest.mark.parametrize("face", [FACES["nnx"]], ids=["nnx"])  # Linen runs the same loop
each_kind = pytest.mark.parametrize("kind", KINDS)
VARIANTS = [
    (kind, {"variant": variant, "per_gate": per_gate})
    for kind in KINDS
    for variant in ("variational", "no_memory_loss", "zoneout")
    for per_gate in (False, True)
    if not (kind == "SimpleRNN" and (per_gate or variant == "no_memory_loss"))
    if not (variant == "zoneout" and per_gate)
    if not (variant == "no_memory_loss" and kind == "GRU" and per_gate)
]
# Each kind, each variant, and masks per gate with and without memory loss: for tests of what does
# not depend on how a kind and a variant are combined.
SOME_VARIANTS = [
    ("LSTM", {"variant": "variational", "per_gate": True}),
    ("LSTM", {"variant": "zoneout", "per_gate": False}),
    ("LSTM", {"variant": "no_memory_loss", "per_gate": True}),
    ("GRU", {"variant": "no_memory_loss", "per_gate": False}),
    ("SimpleRNN", {"variant": "variational", "per_gate": False}),
]


def _each(variants):
    return pytest.mark.parametrize(
        ("kind", "options"),
        variants,
        ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())),
    )


each_variant, some_variants = _each(VARIANTS), _each(SOME_VARIANTS)


def assert_close(actual, expected, tolerance=1e-6):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )


def random_bits_inside_scans(jaxpr, inside=False):
    """Counts the operations that draw random numbers inside of loops."""
    found = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        found += inside and name.startswith(("random_", "threefry"))
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += random_bits_inside_scans(inner, inside or name in ("scan", "while"))
    return found
