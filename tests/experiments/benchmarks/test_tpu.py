import importlib.util
import subprocess
import sys
import textwrap

import pytest

from experiments.benchmarks import tpu
from experiments.errors import InputError

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
    assert tpu.total_cycles(text) == 7 + 30 + 3 * (100 + 8 * 1000)


def test_a_loop_of_unknown_length_is_not_counted_as_one():
    with pytest.raises(ValueError, match="must count up to a constant: counts_to_8"):
        tpu.total_cycles(TEXT.replace("constant(8)", "parameter(0)"))


@pytest.mark.parametrize(
    ("why", "sentence"),
    [
        (
            "no such slice",
            "a TPU topology needs a name such as v5e:4x4, v5e:16x16, v5p:2x2x4, v5p:8x16x16 or "
            "v6e:16x16: got 'v9:1x1' (no such slice)",
        ),
        (
            "ABORTED: Internal error when accessing libtpu multi-process lockfile.\nRun "
            '"$ sudo rm FOLDER/libtpu_lockfile".',
            "another process is using the TPU's compiler: wait until it has ended",
        ),
    ],
)
def test_a_topology_that_cannot_be_compiled_for(why, sentence, monkeypatch):
    def fail(**kwargs):
        raise RuntimeError(f"first line\n{why}")

    monkeypatch.setattr(tpu.topologies, "get_topology_desc", fail)
    monkeypatch.setattr(tpu.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError) as error:
        tpu.mesh("v9:1x1")
    assert str(error.value) == sentence


def test_a_missing_compiler_names_the_extra(monkeypatch):
    monkeypatch.setattr(tpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        tpu.mesh("v5e:4x4")
    assert str(error.value) == (
        "compiling for TPUs needs the package libtpu: pip install -e '.[tpu]'"
    )


def printed(code):
    """Runs code in its own process, since libtpu takes control of the process."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@needs_libtpu
def test_no_tpu_program_over_all_of_x_hashes_a_small_mask():
    code = """
        import jax, jax.numpy as jnp
        jax.config.update("jax_platforms", "cpu")
        from experiments.benchmarks import tpu
        from flax_spatialdrop import dropout
        from tests.hlo import sizes_of_words
        chips, x = tpu.mesh("v5e:4x4"), jax.ShapeDtypeStruct((16, 32, 32, 128), jnp.bfloat16)
        for noise_shape in ((None, 1, 1, None), None):
            f = lambda key, x: dropout(key, x, 0.5, noise_shape=noise_shape)
            text = tpu._compile(f, (x,), chips)[0].as_text()
            print(max(sizes_of_words(text)) >= 16 * 32 * 32 * 128)
    """
    assert printed(code) == ["False", "True"]


@needs_libtpu
def test_masks_of_more_than_32_bits_need_no_communication():
    code = """
        import jax, jax.numpy as jnp
        jax.config.update("jax_platforms", "cpu")
        from experiments.benchmarks import tpu
        from flax_spatialdrop import dropout
        chips, x = tpu.mesh("v5e:4x4"), jax.ShapeDtypeStruct((128, 2048, 2048), jnp.bfloat16)
        program, _ = tpu._compile(lambda key, x: dropout(key, x, 0.5), (x,), chips)
        print(sum(tpu.collectives(program.as_text()).values()))
    """
    assert printed(code) == ["0"]
