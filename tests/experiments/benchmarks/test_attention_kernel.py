import jax
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from experiments.benchmarks import attention_kernel
from experiments.benchmarks.attention_kernel import DEFAULT_KEY, JAX
from experiments.benchmarks.cases import NO_DROPOUT
from experiments.benchmarks.libraries import OURS_FAST
from flax_spatialdrop.linen import dot_product_attention

KEY = jax.random.key(0)
QKV = tuple(jax.random.normal(jax.random.key(i), (1, 256, 2, 128)) for i in range(3))


@pytest.mark.parametrize("is_causal", [False, True])
def test_only_the_dropout_differs(is_causal):
    found = {n: f(KEY, *QKV) for n, f in attention_kernel.contenders(is_causal).items()}
    mask = np.tril(np.ones((1, 1, 256, 256), bool)) if is_causal else None
    dropped = dot_product_attention(
        *QKV, mask=mask, dropout_rng=KEY, dropout_rate=0.1, broadcast_dropout=False
    )
    np.testing.assert_allclose(found[DEFAULT_KEY], dropped, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(
        found[NO_DROPOUT], dot_product_attention(*QKV, mask=mask), rtol=2e-5, atol=2e-6
    )
    assert np.abs(found[OURS_FAST] - found[NO_DROPOUT]).max() > 0.01
    assert np.abs(found[OURS_FAST] - found[DEFAULT_KEY]).max() > 0.01


def test_jax_s_kernel_has_the_same_values():
    with pltpu.force_tpu_interpret_mode():
        y = attention_kernel.jax_attention(KEY, *QKV)
    np.testing.assert_allclose(y, dot_product_attention(*QKV), rtol=1e-4, atol=1e-5)


def test_rows_have_the_kernel_and_what_can_be_counted_beside_it():
    rows = {case.row: case for case in attention_kernel.cases()}
    shape = "bf16[1, 4096, 8, 128]"
    assert list(rows) == [
        f"{shape} forward",
        f"{shape} gradient",
        f"causal {shape} forward",
        f"causal {shape} gradient",
    ]
    names = (NO_DROPOUT, OURS_FAST, DEFAULT_KEY)
    for row, case in rows.items():
        is_causal = row.startswith("causal")
        kernels = [f"kernel, {name}" for name in names]
        assert list(case.kernels) == (kernels if is_causal else [*kernels, JAX])
        assert list(case.programs) == ([] if is_causal else [f"in blocks, {n}" for n in names])
        assert case.baseline == kernels[0]


def test_a_gradient_is_for_all_three():
    *_, case = attention_kernel.cases()
    gradients = jax.eval_shape(case.kernels[case.baseline], KEY, *case.shapes)
    assert [(g.shape, g.dtype) for g in gradients] == [(s.shape, s.dtype) for s in case.shapes]
