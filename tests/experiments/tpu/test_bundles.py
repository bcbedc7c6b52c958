import re

import pytest

from experiments.tpu import bundles

# A copy in 32 pieces, as the compiler wrote it for TPU v5e, with fewer vector instructions.
PIPELINED = """\
= control target key start
LB: loop body
= control target key end

     0   :  { %s1657_s6 = smov 0 /* copy for cssa */  ;;  %s1854_s0 = inlined_call_operand.vmem } \
/* entry bundle: %copy.39 = copy(%get-tuple-element.643) */
   0x1   :  { %s1667_s11 = smov 0 /* copy for cssa */ }
   0x2   :  { %s1669_s12 = smov 0 /* copy for cssa */ } /* End region 290 */
   0x3 LB: > { %s73_s13 = sadd.s32 1, %s1641_s11  ;;  %p1272_p0 = scmp.ge.s32.totalorder \
%s1645_s12, 5  ;;  %s1645_s12 = sphi %s1669_s12, %s7_s12 /* phi copy :: iteration index, stage = 0 \
*/  ;;  %s1641_s11 = sphi %s1667_s11, %s1861_s11 /* copy for cssa */ } /* Start region 295 */
   0x4   : > { %p75_p1 = scmp.ge.s32.totalorder %s73_s13, 32  ;;  %p120_p2 = \
scmp.lt.s32.totalorder %s1645_s12, 37 }
   0x5   : > { %s1863_s13 = smov (%p75_p1, %s73_s13), 0  ;;  %p121_p3 = pnand %p1272_p0, %p120_p2 }
   0x6   : > { %124 = sbr.rel (%p121_p3) target = $region20 } /* End region 17 :: End region 18 */
   0x7   : > { %v218_v0 = vld [vmem:[%s1854_s0] sm:$0xff] /* [sublane mask fusion: 0x0f | 0x0f] */ }
   0x8   : > { %222 = vst [vmem:[%s1703_s20] sm:$0xff] /*vst_source=*/%v218_v0 }
   0x9   : > { %1466 = vst [vmem:[%s1703_s20 + $0x1f8] sm:$0xff] } /* End region 295 */
   0xa PF: > { %s7_s12 = sadd.s32 1, %s1645_s12 } /* Start/End empty region 20 :: Start region 6 */
   0xb   : > { %p4_p5 = scmp.ge.s32.totalorder %s7_s12, 42 /* loop exit test */ }
   0xc   : > { %s1861_s11 = smov %s1863_s13 } /* End region 3 */
   0xd   :  { %6 = sbr.rel (!%p4_p5) target = $region295 }
   0xe   :  {}
   0xf   :  {} /* exit bundle: %copy.39 = copy(%get-tuple-element.643) */
"""
TRIPS, WORKING = 42, 37 - 5


def test_a_bundle_counts_as_often_as_the_chip_issues_it():
    always, working = 0xD - 0x3 + 1 - 3, 3
    expected = 3 + TRIPS * always + WORKING * working + 2
    assert bundles.count(PIPELINED) == (expected, 0)
    assert bundles.count(PIPELINED.replace("smov", "smov.u32")) == (expected, 0)  # libtpu 0.0.51


def test_a_condition_may_depend_on_a_counter_that_wraps_around():
    """It counts to 31 and begins again, so it is 0 in 2 of 42 iterations."""
    text = PIPELINED.replace("pnand %p1272_p0, %p120_p2", "scmp.ne.s32.totalorder %s1641_s11, 0")
    always, working = 0xD - 0x3 + 1 - 3, 3
    assert bundles.count(text) == (pytest.approx(3 + TRIPS * always + 2 * working + 2), 0)


def test_a_counter_may_lie_in_memory_for_a_while():
    text = PIPELINED.replace(
        "   0x7   : > {", "   0x7   : > { %9 = sst [smem:[#allocation14_spill]] %s1645_s12  ;; "
    ).replace(
        "%s7_s12 = sadd.s32 1, %s1645_s12 }",
        "%s9_s9 = sld [smem:[#allocation14_spill]]  ;;  %s7_s12 = sadd.s32 1, %s9_s9 }",
    )
    assert text.count("spill") == 2
    assert bundles.count(text) == bundles.count(PIPELINED)
    copied = "{ %s5_s5 = smov %s1645_s12  ;;  %8 = sst [smem:[#allocation14_spill]] %s5_s5  ;; "
    twice = text.replace("   0x8   : > {", f"   0x8   : > {copied}")
    assert bundles.count(twice).unknown_loops == 1


def test_a_loop_whose_length_is_an_argument_counts_once():
    text = PIPELINED.replace("%s7_s12, 42 /*", "%s7_s12, %s1855_s1 /*")
    assert bundles.count(text) == (0xF + 1, 1)


def test_both_sides_of_an_unknown_condition_count():
    text = PIPELINED.replace("pnand %p1272_p0, %p120_p2", "pnand %p1, %p2")
    assert bundles.count(text) == (3 + TRIPS * 11 + 2, 0)


def test_one_side_may_decide_a_condition():
    text = PIPELINED.replace("pnand %p1272_p0, %p120_p2", "por %p1, %p120_p2")
    # The branch skips the work while the counter is below 37. Later it depends on %p1.
    assert bundles.count(text) == (3 + TRIPS * 11 + 2, 0)
    text = text.replace("%s1645_s12, 37 }", "%s1645_s12, 50 }")
    assert bundles.count(text) == (3 + TRIPS * 8 + 2, 0)


@pytest.mark.parametrize(
    ("limit", "trips"), [("scmp.eq.s32.totalorder %s7_s12, 7", 7), ("pneg %p8_p8", 9)]
)
def test_other_ends_of_loops(limit, trips):
    text = PIPELINED.replace(
        "%p4_p5 = scmp.ge.s32.totalorder %s7_s12, 42",
        f"%p8_p8 = scmp.lt.s32.totalorder %s7_s12, 9  ;;  %p4_p5 = {limit}",
    )
    assert bundles.count(text) == (3 + trips * 8 + max(0, trips - 5) * 3 + 2, 0)


def test_negative_numbers_are_written_without_a_sign():
    text = PIPELINED.replace("%s1669_s12 = smov 0", "%s1669_s12 = smov 4294967294")
    assert bundles.count(text).cycles == bundles.count(PIPELINED).cycles + 2 * 8


def test_a_loop_inside_of_a_loop_runs_in_each_iteration():
    inner = """\
   0x8 LB: >> { %s2_s2 = sphi %s1657_s6, %s3_s3 } /* Start region 400 */
   0x8   : >> { %s3_s3 = sadd.s32 2, %s2_s2  ;;  %p9_p9 = scmp.lt.s32.totalorder %s3_s3, 10 }
   0x8   : > { %11 = sbr.rel (%p9_p9) target = $region400 }
   0x8   : > { %222"""
    text = PIPELINED.replace("   0x8   : > { %222", inner)
    assert bundles.count(text).cycles == bundles.count(PIPELINED).cycles + WORKING * 5 * 3


def test_an_instruction_may_have_no_operands():
    text = PIPELINED.replace("%s1645_s12 = sphi", "%v9_v9 = vlaneseq  ;;  %s1645_s12 = sphi")
    assert bundles.count(text) == bundles.count(PIPELINED)


def nested(condition, limit="10"):
    """A loop inside of a loop, with a bundle that is skipped if the condition holds."""
    inner = f"""\
   0x8 LB: >> {{ %s2_s2 = sphi %s1657_s6, %s3_s3 }} /* Start region 400 */
   0x8   : >> {{ %p10_p10 = {condition} }}
   0x8   : >> {{ %12 = sbr.rel (%p10_p10) target = $region401 }}
   0x8   : >> {{ %13 = vst [vmem:[%s1703_s20] sm:$0xff] /*vst_source=*/%v218_v0 }}
   0x8   : >> {{ %s3_s3 = sadd.s32 2, %s2_s2 }} /* Start region 401 */
   0x8   : >> {{ %p9_p9 = scmp.lt.s32.totalorder %s3_s3, {limit} }}
   0x8   : > {{ %11 = sbr.rel (%p9_p9) target = $region400 }}
   0x8   : > {{ %222"""
    return PIPELINED.replace("   0x8   : > { %222", inner)


def test_a_condition_inside_of_a_loop_may_depend_on_the_loop_around():
    text = nested("scmp.lt.s32.totalorder %s1645_s12, 21")  # in half of the iterations around
    expected = bundles.count(PIPELINED).cycles + WORKING * 5 * (6 + 1 / 2)
    assert bundles.count(text) == (pytest.approx(expected), 0)


def test_a_loop_that_the_loop_around_bounds_counts_once():
    text = nested("scmp.lt.s32.totalorder %s2_s2, 4", limit="%s1645_s12")
    assert bundles.count(text) == (bundles.count(PIPELINED).cycles + WORKING * 7, 1)


def test_a_text_without_bundles_is_refused():
    sentence = "a schedule must have bundles, lines such as '0x1   :  { ... }': got none"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        bundles.count("= control target key start\n")
