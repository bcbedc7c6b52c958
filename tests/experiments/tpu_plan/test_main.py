import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import pytest

from configs import decoder
from experiments.errors import InputError
from experiments.tpu_plan import __main__ as tpu_plan
from experiments.tpu_plan import compiling, figure, table
from experiments.tpu_plan.results import PARTS, Plan, Row

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CHIPS = {"v5e:4x4": 16, "v5p:4x8x8": 256, "v5e:2x4": 8}


@pytest.fixture
def compiled(monkeypatch):
    """Replaces the compiler; returns the names of what was compiled. `fail` makes one fail."""

    def count(topology, limits):
        if topology not in CHIPS:
            raise InputError(f"no topology {topology}")
        return CHIPS[topology]

    def fill(row, config, arm, limits, programs):
        names.append(f"{row.topology} {arm.name}")
        row.failure = "it needs more than --memory_limit=20 gigabytes" if arm.name in fails else ""
        if not row.failure:
            scale = 1 if row.compared_to is None else 1.1
            row.memory = dict.fromkeys(PARTS, round(2**20 * scale))
            row.cycles, row.scheduled, row.flops = 1e6 * scale, 5e5 * scale**2, 2e9
            row.collectives = {"all-reduce": 5}

    names, fails = [], set()
    monkeypatch.setattr(compiling, "count_chips", count)
    monkeypatch.setattr(compiling, "fill", fill)
    names_and_fails = names, fails
    return names_and_fails


def run(tmp_path, *arguments, config="decoder.py:smoke"):
    return tpu_plan.main(
        ["tpu_plan", f"--config=configs/{config}", f"--workdir={tmp_path}", *arguments]
    )


BAD = [
    (["--topology=v9:1"], "error: no topology v9:1"),
    (
        ["--topology=v5e:2x4", "--config.mesh.fsdp=4", "--config.batch_size=12"],
        "error: the chips must share the batch equally: got 12 examples for 8 parts "
        "(config.mesh.data * config.mesh.fsdp); --batch_a_chip sets it for each chip\n",
    ),
    (
        ["--topology=v5e:2x4"],
        "error: config.mesh.fsdp * config.mesh.model must divide the chips: got 16 * 1 for 8 "
        "chips\n",
    ),
    (
        ["--topology=v5e:4x4", "--only=spatial"],
        "error: no program matches --only=spatial: there are none, residual, attention, embedding, "
        "all, all with fast_key, Flax none, Flax all",
    ),
    (["--only=("], "error: --only must be a regular expression: got '(' ("),
    (["--time_limit=-1"], "error: flag --time_limit=-1: -1.0 is not a non-negative number"),
    (["more"], "error: every argument must be a flag: got 'more'"),
]


def test_help_names_the_flags(capsys):
    assert tpu_plan.main(["tpu_plan", "--help"]) == 0
    assert "\n  --programs: " in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_sentence(arguments, message, compiled, tmp_path, capsys):
    assert run(tmp_path, *arguments) == 1
    assert capsys.readouterr().err.startswith(message)
    assert compiled[0] == []


def test_results_say_what_dropout_adds(compiled, tmp_path, capsys):
    arguments = ("--topology=v5e:4x4,v5p:4x8x8", "--batch_a_chip=2", "--only=^(none|all)$")
    assert run(tmp_path, *arguments) == 0
    assert compiled[0] == ["v5e:4x4 none", "v5e:4x4 all", "v5p:4x8x8 none", "v5p:4x8x8 all"]
    out = capsys.readouterr().out
    assert "decoder-smoke on v5e:4x4: all: 5.5 MiB a chip (parameters 1.1, " in out
    assert "beyond none: +21.0 % cycles, +0.5 MiB" in out
    report = (tmp_path / "report.md").read_text()
    row = (
        "| decoder-smoke | v5p:4x8x8 | 256 | 2 | all | +21.0 % | +0.105 | +10.0 % | +0.1 | +0.5 | "
        "+0 |"
    )
    assert row in report.splitlines()
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert json.loads((tmp_path / "decoder-smoke.json").read_text())["rows"][1]["chips"] == 16


def test_a_stopped_plan_continues_and_compiles_again_what_failed(compiled, tmp_path, capsys):
    names, fails = compiled
    fails.add("all")
    arguments = ("--topology=v5e:4x4", "--only=none$|^all|^res")
    assert run(tmp_path, *arguments) == 0
    failure = "all: it needs more than --memory_limit=20 gigabytes"
    assert failure in capsys.readouterr().out
    assert f"\n{failure}.\n" in (tmp_path / "report.md").read_text()
    names.clear()
    fails.clear()
    assert run(tmp_path, *arguments) == 0
    assert names == ["v5e:4x4 all"]
    assert failure not in (tmp_path / "report.md").read_text()


def test_rows_of_another_config_stay(compiled, tmp_path, capsys):
    arguments = ("--topology=v5e:4x4", "--only=^none")
    assert run(tmp_path, *arguments) == 0
    assert run(tmp_path, *arguments, "--config.layers=3") == 1
    path = tmp_path / "decoder-smoke.json"
    assert capsys.readouterr().err == (
        f"error: {path} has rows of another config or of other versions, which this plan would "
        "replace: use another --workdir or --config.name, or move the file\n"
    )
    path.write_text("[]")
    assert run(tmp_path, *arguments) == 1
    assert f"error: {path} is not a plan that this program wrote" in capsys.readouterr().err


def slices():
    """Returns a plan of two slices of one kind of chips, and of one slice of another kind."""
    rows = [
        Row("net", name, chips, 1, arm, compared, dict.fromkeys(PARTS, 2**20), 9e6, cycles)
        for name, chips in (("v5p:2x2x4", 16), ("v5p:4x8x8", 256), ("v5e:4x4", 16))
        for arm, compared, cycles in (
            ("none", None, 1e6),
            ("all", "none", 1.2e6 + (chips > 16) * 1e5),
        )
    ]
    return Plan({}, {"jax": "1"}, "2030-01-01", rows)


def test_both_panels_of_the_figure():
    plan, peak = slices(), dict.fromkeys(PARTS, 2**20)
    others = [("CNN none", None), ("CNN all", "CNN none"), ("last", "none")]
    plan.rows += [
        Row("net", "v5e:4x4", 16, 1, arm, compared, peak, 9e6, 1e6) for arm, compared in others
    ]
    left, right = figure.draw([plan]).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["net on v5p:\nall"]
    added = [bar.get_width() for bar in left.patches]  # of 16 chips, then of 256
    assert added == pytest.approx([0.2, 0.3])
    assert len(right.patches) == 2 * len(PARTS)
    names = ["net on v5e:4x4: none", "net on v5e:4x4: all"]  # those of the left panel
    assert [label.get_text() for label in right.get_yticklabels()] == names


def test_a_table_compares_slices_of_one_kind_of_chips():
    plan = slices()
    plan.rows[3].collectives = {"all-reduce": 2}
    assert table.slices([plan])[4:] == [
        "| config | dropout | TPU | 16 chips | 256 chips | collectives |",
        "|---|---:|---:|---:|---:|---:|",
        "| net | all | v5p | +0.2 (+20.0 %) | +0.3 (+30.0 %) | +0 to +2 |",
        "",
    ]
    plan.rows[3].scheduled = 0  # not known
    plan.rows[3].cycles = 9.9e6
    line = "| net | all | v5p | +0 (+0.0 %, E) | +0.9 (+10.0 %, E) | +0 to +2 |"
    assert table.slices([plan])[6] == line


def test_what_a_schedule_leaves_out_is_below_the_table():
    plan = slices()
    plan.rows[5].scheduled, plan.rows[5].not_scheduled = 0, "the peak bandwidth is not known"
    report = table.report([plan])
    assert "\nall: the peak bandwidth is not known.\n" in report
    assert "| net | v5e:4x4 | 16 | 1 | all |  |  | +0.0 % | +0 | +0.0 | +0 |" in report


def test_numbers_have_three_digits_or_all_before_the_point():
    assert [table.number(n) for n in (0.01234, 1.5, 12.34, 1234.5)] == [
        "0.0123",
        "1.5",
        "12.3",
        "1,234",
    ]


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@needs_libtpu
@pytest.mark.slow
def test_a_step_is_compiled(tmp_path):
    assert run(tmp_path, "--topology=v5e:4x4", "--only=^(none|all)$", "--batch_a_chip=1") == 0
    none, dropped = Plan.load(tmp_path / "decoder-smoke.json").rows
    assert none.failure == dropped.failure == ""
    assert none.cycles < dropped.cycles
    assert 0 < none.scheduled < dropped.scheduled
    assert none.memory["kept for backward"] > 0
    assert none.collectives["all-reduce"] > 0
    assert none.flops == dropped.flops > 0


@needs_libtpu
@pytest.mark.slow
def test_a_topology_that_does_not_exist(tmp_path, capsys):
    assert run(tmp_path, "--topology=v5e:3x5") == 1
    assert capsys.readouterr().err.startswith(
        "error: a TPU topology needs a name such as v5e:4x4, v5e:16x16, v5p:2x2x4, v5p:8x16x16 or "
        "v6e:16x16: got 'v5e:3x5' ("
    )


def test_the_smoke_config_is_small():
    assert decoder.get_config("smoke").layers < decoder.get_config().layers


def test_only_the_compiler_uses_libtpu_without_a_variable_that_says_so(tmp_path):
    code = f"""
        import jax, os
        from jax._src import xla_bridge
        from experiments.tpu import topologies
        from experiments.errors import InputError
        from experiments.tpu_plan import __main__, compiling

        def use(**kwargs):
            started = xla_bridge.backends_are_initialized()
            print(jax.config.jax_platforms, started, os.environ["TPU_SKIP_MDS_QUERY"])
            raise RuntimeError("no such slice")

        def count(topology, limits):
            raise InputError(jax.config.jax_platforms)

        util = topologies.importlib.util
        find_spec, util.find_spec = util.find_spec, lambda name: name
        topologies.topologies.get_topology_desc = use
        try:
            compiling._count("v5e:4x4")  # what the process that compiles does
        except InputError:
            pass
        util.find_spec, compiling.count_chips = find_spec, count
        jax.config.update("jax_platforms", None)  # as at the start of a process
        __main__.main(["tpu_plan", "--config=configs/decoder.py:smoke", "--workdir={tmp_path}"])
    """
    environment = {name: value for name, value in os.environ.items() if "JAX" not in name}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("cpu False 1\n", "error: cpu")
