"""The loop: its derivatives, its padding, and the operations that must be outside of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.random import clone

from flax_spatialdrop import RecurrentMasks
from flax_spatialdrop._recurrent import scan as _recurrent_scan

from .faces import (
    BOTH,
    KEY,
    X,
    assert_close,
    each_variant,
    one_face,
    random_bits_inside_scans,
    some_variants,
)

LENGTHS = jnp.array([11, 1, 7, 0])


@one_face
@some_variants
def test_gradients_are_those_of_a_plain_scan(face, kind, options, monkeypatch):
    """Compares gradients of parameters and inputs to those of the loop without the custom JVP."""
    layer = face(kind, **BOTH, **options)
    masks = layer.masks(X, clone(KEY))

    def loss(params, x):
        carry, outputs = layer(x, params, masks=masks, return_carry=True)
        return jnp.sin(outputs).sum() + sum(part.sum() for part in jax.tree.leaves(carry))

    def derivatives():
        both = jax.grad(loss, argnums=(0, 1))
        return both(layer.params, X), jax.jvp(lambda x: loss(layer.params, x), (X,), (X,))[1]

    ours = jax.jit(derivatives)()
    monkeypatch.setattr(_recurrent_scan, "_scan", _recurrent_scan._scan.fun)
    assert_close(ours, jax.jit(lambda: derivatives())(), 1e-4)


@one_face
@each_variant
def test_no_random_bits_inside_the_loop(face, kind, options):
    layer = face(kind, **BOTH, **options)
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: layer.drawn(X, clone(KEY), params=p).sum()))
    assert random_bits_inside_scans(jaxpr(layer.params).jaxpr) == 0
    keys = jax.random.split(clone(KEY))
    drawing = jax.make_jaxpr(lambda keys: jax.lax.map(jax.random.bits, keys))(keys)
    assert random_bits_inside_scans(drawing.jaxpr) > 0


@one_face
@some_variants
def test_padding_changes_nothing(face, kind, options):
    layer = face(kind, **BOTH, **options)
    masks = layer.masks(X, clone(KEY))
    bad = jnp.where((np.arange(11) < np.asarray(LENGTHS)[:, None])[..., None], X, jnp.nan)

    def run(params, x, **extra):
        carry, outputs = layer(
            x, params, masks=masks, seq_lengths=LENGTHS, return_carry=True, **extra
        )
        return jnp.sin(outputs).sum() + sum(p.sum() for p in jax.tree.leaves(carry)), (
            carry,
            outputs,
        )

    for extra in ({}, {"reverse": True, "keep_order": True}):
        both = jax.jit(jax.value_and_grad(partial(run, **extra), argnums=(0, 1), has_aux=True))
        found = both(layer.params, bad)
        assert_close(found, both(layer.params, X))
        outputs = found[0][1][1]
        assert not outputs[3].any()
        assert not outputs[1, 1:].any()
    alone = layer(X[2:3, :7], masks=_of_example(masks, 2, 7, options), return_carry=True)
    carry, outputs = layer(X, masks=masks, seq_lengths=LENGTHS, return_carry=True)
    assert_close(alone[1], outputs[2:3, :7])
    assert_close(alone[0], jax.tree.map(lambda part: part[2:3], carry))


def _of_example(masks, index, steps, options):
    def cut(mask):
        return mask[:, index : index + 1] if mask.ndim == 3 else mask[index : index + 1]

    state = masks.state
    if options["variant"] == "zoneout":
        state = tuple(mask[index : index + 1, :steps] for mask in state)
    else:
        state = cut(state)
    return RecurrentMasks(cut(masks.inputs), state)
