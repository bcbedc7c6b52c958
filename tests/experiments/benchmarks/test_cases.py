import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.cases import (
    COPY,
    LARGE_SHAPES,
    PEER_SHAPES,
    SHAPES,
    cases,
    chain_loss,
    copy,
    describe,
    in_direction,
    layer_cases,
    line_cases,
    network_cases,
    scan_loss,
)
from experiments.benchmarks.libraries import (
    CORE,
    ELEMENT_WISE,
    FLAX,
    LIBRARIES,
    OURS,
    SPATIAL,
    layers,
)
from flax_spatialdrop import dropout

KEY = jax.random.key(0)


def test_rows_have_names_of_their_own():
    ids = [case.id for case in cases()]
    assert len(ids) == len(set(ids))


def test_every_shape_dtype_and_direction_is_there():
    rows = {case.row: case for case in layer_cases()}
    assert len(rows) == 2 * len(SHAPES) * 2 * 2
    full = rows["element-wise bf16[32, 64, 64, 128] pullback"]
    assert [(s.shape, s.dtype) for s in full.shapes] == [((32, 64, 64, 128), jnp.bfloat16)] * 2
    assert set(full.programs) == {COPY, *layers(ELEMENT_WISE, 4, tuple(LIBRARIES))}
    short = rows["spatial f32[64, 512, 100] forward"]
    assert set(short.programs) == {COPY, *layers(SPATIAL, 3, CORE)}
    assert set(PEER_SHAPES) < set(SHAPES)


def test_accelerators_have_larger_shapes(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    rows = {case.row: case for case in layer_cases()}
    assert len(rows) == 2 * len((*SHAPES, *LARGE_SHAPES)) * 2 * 2
    large = rows["element-wise bf16[512, 64, 64, 128] forward"]
    assert set(large.programs) == {COPY, *layers(ELEMENT_WISE, 4, tuple(LIBRARIES))}
    assert large.eager is not dict


def test_a_pullback_draws_and_applies_the_mask_to_the_cotangent():
    x, ct = jnp.ones((3, 40)), 2 * jnp.ones((3, 40))
    pullback = in_direction(lambda key, x: dropout(key, x, 0.5), "pullback")
    np.testing.assert_array_equal(pullback(KEY, x, ct), dropout(KEY, ct, 0.5))
    np.testing.assert_array_equal(in_direction(copy, "pullback")(KEY, x, ct), 2 * ct)


@pytest.mark.parametrize(("axis", "place"), [(1, "a middle"), (2, "the last")])
def test_a_line_row_compares_a_shared_mask_to_a_draw_per_element(axis, place):
    wanted = f"a draw shared by 4 along {place} axis, forward"
    (case,) = (case for case in line_cases() if case.row == wanted)
    x = jnp.ones((2, *case.shapes[0].shape[1:]), jnp.bfloat16)
    once = np.asarray(case.programs["drawn once"](KEY, x, x))
    assert (once == once.take([0], axis)).all()
    each = np.asarray(case.programs["per element"](KEY, x, x))
    assert (each != each.take([0], axis)).any()


def small(case):
    x, ws = case.shapes
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(2, 3, 3, 8)), x.dtype),
        jnp.asarray(rng.normal(size=(3, 8, 8)), ws.dtype),
    )


@pytest.mark.parametrize("case", list(network_cases()), ids=lambda case: case.row)
def test_networks_have_flax_s_gradient(case):
    arrays = small(case)
    gradients = {n: jax.jit(f)(KEY, *arrays) for n, f in case.programs.items()}
    for ours, theirs in zip(gradients[OURS], gradients[FLAX], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (gradients[OURS][0] != gradients["no dropout"][0]).any()


def test_chain_and_scan_are_one_network():
    arrays = small(next(iter(network_cases())))
    layer = layers(ELEMENT_WISE, 4, (OURS,))[OURS]
    np.testing.assert_allclose(
        chain_loss(layer)(KEY, *arrays), scan_loss(layer)(KEY, *arrays), rtol=1e-5
    )


def test_rows_cannot_be_changed():
    case = next(iter(cases()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        case.row = "another"


def test_describe():
    assert describe("bfloat16", (2, 3)) == "bf16[2, 3]"
