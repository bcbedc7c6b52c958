import jax
import jax.numpy as jnp
import pytest

from experiments.tpu import hlo
from experiments.tpu.bundles import Count
from experiments.tpu_plan import costs
from experiments.tpu_plan.compiling import Compiled, describe, refusal
from experiments.tpu_plan.results import Row

TEXT = """\
HloModule jit_step, is_scheduled=true

%inside (p: f32[8]) -> f32[8] {
  %p = (s32[]) parameter(0)
  %g = f32[8]{0} all-gather(%p), channel_id=1
  %g.2 = f32[8]{0} all-gather(%p), channel_id=1
  %g.3 = f32[8]{0} all-gather(%p), channel_id=3
}

%until (p: (s32[], s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %lt.1 = pred[] compare(%i, %n), direction=LT
}

%keys (p: (s32[], s32[])) -> (s32[], s32[]) {
  %p = (s32[]) parameter(0)
  %k = f32[8]{0} fusion(%p), calls=%product, backend_config={"estimated_cycles":"100"}
}

%counts_to_7 (p: (s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  %limit = s32[]{:T(128)} constant(7)
  %j = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.2 = pred[] compare(%j, %limit), direction=LT
}

%queries (p: (s32[])) -> (s32[]) {
  %p = (s32[]) parameter(0)
  %gathered = f32[8]{0} fusion(%p), calls=%inside, backend_config={"estimated_cycles":"10"}
  %w.1 = (s32[], s32[]) while(%p), condition=%until, body=%keys
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %act = bf16[4,100]{1,0:T(8,128)(2,1)S(1)} fusion(%a), metadata={op_name="jvp(Net)/mul"}
  %pair = (f32[2]{0}, f32[8,128]{1,0:T(8,128)}) fusion(%act), metadata={op_name="jvp(Net)/add"}
  %part = f32[8,128]{1,0:T(8,128)} get-tuple-element(%pair), index=1
  %out = (bf16[4,100]{1,0}, bf16[4,100]{1,0}, u32[]) copy-start(%act)
  %back = bf16[4,100]{1,0} copy-done(%out)
  %unused = f32[8,128]{1,0} fusion(%act), metadata={op_name="jvp(Net)/sub"}
  %grad = f32[8,128]{1,0} fusion(%part, %back, %a), metadata={op_name="transpose(jvp(Net))/mul"}
  %grad.2 = f32[8,128]{1,0} fusion(%grad, %act), metadata={op_name="transpose(jvp(Net))/add"}
  %sum = f32[8,128]{1,0} all-reduce-start(%grad.2), channel_id=2
  %w.2 = (s32[]) while(%sum), condition=%counts_to_7, body=%queries
  ROOT %new = f32[8,128]{1,0} fusion(%a, %sum), backend_config={"estimated_cycles":"3"}
}
"""
COUNTS = {name: Count(50, 0) for name in ("k", "gathered", "act", "pair", "new")}
KEPT = 8 * 128 * 2 + 8 * 128 * 4  # %act with its padding, and %part


def test_values_from_the_forward_pass_are_kept_until_the_backward_pass_reads_them():
    assert costs.kept_for_backward(TEXT) == KEPT


def test_sizes_have_the_padding_of_their_tiles():
    assert hlo.size("bf16[16,1000]{1,0:T(8,128)(2,1)}") == 16 * 1024 * 2
    assert hlo.size("bf16[16,1000]{0,1:T(8,128)}") == 128 * 1000 * 2
    assert hlo.size("(f32[3]{0}, pred[5], token[])") == 3 * 4 + 5
    assert hlo.size("s32[]") == 4


def test_loops_of_causal_attention_have_their_mean_length():
    assert hlo.total_cycles(TEXT, causal=True) == 3 + 7 * (10 + 4 * 100)
    with pytest.raises(ValueError, match="a loop must count up to a constant: until has none"):
        hlo.total_cycles(TEXT)


def test_collectives_count_as_often_as_they_run():
    assert hlo.collectives(TEXT, causal=True) == {"all-gather": 14, "all-reduce": 1}


def test_a_row_is_read_from_a_program():
    row = Row("net", "v5e:4x4", 16, 2, "Dropout", "none")
    arguments = {"parameters": 4096, "optimizer state": 1000, "batch": 10}
    describe(row, Compiled(TEXT, arguments, 20_000, 3200.0, 7.4, 10**9, COUNTS), causal=True)
    assert list(row.memory.values()) == [4096, 1000, 10, KEPT, 20_000 - 5106 - KEPT]
    assert row.peak == 20_000
    assert (row.flops, row.cycles) == (200, 2873)
    assert row.scheduled == 3 * 50 + 7 * (50 + 4 * 50)
    assert row.not_scheduled == ""
    describe(row, Compiled(TEXT, arguments, 6000, 3200.0, 7.4, 10**9, COUNTS), causal=True)
    assert list(row.memory.values())[3:] == [6000 - 5106, 0]


def flops(function, *shapes, **options):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return costs.flops(jax.make_jaxpr(function)(*shapes).jaxpr, **options)


def test_flops_of_products():
    assert flops(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops(jax.jit(jax.checkpoint(jnp.matmul)), (3, 5), (5, 7)) == 2 * 3 * 5 * 7

    def loops(x):
        return jax.lax.scan(lambda y, _: (y @ x, None), x, length=6)[0]

    assert flops(loops, (4, 4)) == 6 * 2 * 4**3


def test_flops_of_a_convolution_and_of_its_gradients():
    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=numbers
        ).sum()

    shapes = (2, 8, 8, 3), (2, 2, 3, 5)
    forward = 2 * (2 * 4 * 4 * 5) * (2 * 2 * 3)
    assert flops(convolve, *shapes) == forward
    for argument in (0, 1):
        gradient = flops(jax.grad(convolve, argument), *shapes)
        assert gradient == 2 * forward  # it runs forward too


def test_flops_of_causal_attention_in_blocks():
    from flax_spatialdrop.linen import blockwise_attention

    def attend(x):
        return blockwise_attention(x, x, x, is_causal=True, query_block_size=4, key_block_size=4)

    visited = 3 * (3 + 1) / 2
    assert flops(attend, (1, 12, 2, 8), causal=True) == visited * 2 * (2 * 2 * 4 * 4 * 8)
    with pytest.raises(ValueError, match="a loop must count up to a constant"):
        flops(attend, (1, 12, 2, 8))


def test_a_refusal_of_xla_is_one_sentence():
    text = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 20.1G of 15.7G hbm. Exceeded hbm capacity by 4.4G.\n\nTotal hbm usage"
    )
    assert refusal(text) == (
        "a chip has too little memory: Used 20.1G of 15.7G hbm. Exceeded hbm capacity by 4.4G."
    )
    assert refusal("INTERNAL: why\nmore") == "XLA does not compile it: INTERNAL: why"
