import pytest

from experiments.tpu import hlo

TEXT = """\
HloModule jit_f
%fused (p: f32[8]) -> f32[8] {
  %a = f32[8] add(%p, %p)
}
%counts_to_8 (p: (s32[], f32[8])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(8)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %limit.1), direction=LT, metadata={}
}
%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %zero.1 = s32[]{:T(128)} constant(0)
  %b.1 = f32[8] fusion(%x.1), calls=%fused, backend_config={"estimated_cycles":"1000"}
}
%counts_to_3 (p: (s32[], f32[8])) -> pred[] {
  %limit.2 = s32[]{:T(128)} constant(3)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  ROOT %lt.2 = pred[]{:T(512)} compare(%i.2, %limit.2), direction=LT, metadata={}
}
%piece.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b.2 = f32[8] fusion(%x.2), calls=%fused, backend_config={"estimated_cycles":"100"}
  %w.2 = (s32[], f32[8]) while(%t.2), condition=%counts_to_8, body=%step, metadata={}
}
ENTRY %main (p: f32[8]) -> f32[8] {
  %d = f32[8] fusion(%p), calls=%fused, backend_config={"estimated_cycles":"7"}
  %e = (s32[], f32[8]) while(%t), condition=%counts_to_3, body=%piece.1
  ROOT %f = f32[8] fusion(%p), calls=%fused, backend_config={"estimated_cycles":"30"}
}
"""


@pytest.mark.parametrize("counter", ["s32", "u32"])
def test_cycles_count_a_loop_s_body_as_often_as_it_runs(counter):
    text = TEXT.replace("s32[]", f"{counter}[]")
    assert hlo.total_cycles(text) == 7 + 30 + 3 * (100 + 8 * 1000)


def test_a_loop_of_unknown_length_is_not_counted_as_one():
    with pytest.raises(ValueError, match="must count up to a constant: counts_to_8"):
        hlo.total_cycles(TEXT.replace("constant(8)", "parameter(0)"))


def test_an_instruction_is_read_from_its_line():
    line = (
        "  ROOT %fusion.1 = (bf16[8]{0:T(256)}, s32[]) fusion(%a.1, /*index=1*/%b), kind=kLoop, "
        'calls=%inside.2, metadata={op_name="transpose(jvp(Net))/mul"}, '
        'backend_config={"estimated_cycles":"100"}'
    )
    found = hlo.instruction(line)
    assert found.name == "fusion.1"
    assert (found.kind, found.operands, found.called) == ("fusion", ["a.1", "b"], "inside.2")
    assert (found.is_backward, found.is_forward, found.estimate) == (True, False, 100)
    assert hlo.instruction("%inside.2 (p: f32[8]) -> f32[8] {") is None


def test_arrays_in_other_memories_are_not_in_hbm():
    shape = "(f32[16]{0:T(8)}, f32[8]{0:T(8)S(1)}, u32[]{:S(2)})"
    assert hlo.size(shape) == 64 + 32 + 4
    assert hlo.size_in_hbm(shape) == 64
