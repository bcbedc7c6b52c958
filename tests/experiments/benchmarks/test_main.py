import json
import signal

import pytest

from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks.libraries import FLAX, OURS

PROGRAM = "benchmarks"
BAD = [
    (["--only=("], "error: --only must be a regular expression: got '(' ("),
    (["--device=gpu"], "error: --device must be here or tpu:TOPOLOGY: got 'gpu'"),
    (["--device=tpu:"], "error: --device must be here or tpu:TOPOLOGY: got 'tpu:'"),
    (
        ["--only=no such row"],
        "error: no row matches --only, a regular expression for names such as "
        "'layers: spatial f32[8, 32, 32, 128] forward' (write \\[ for a bracket)\n",
    ),
    (["layers"], "error: every argument must be a flag: got 'layers'"),
    (["--seconds=-1"], "error: flag --seconds=-1: -1.0 is not a non-negative number"),
    (["--name=a/b"], "error: --name must be a name without a folder: got 'a/b'\n"),
    (["--dev=1"], "error: Unknown command line flag 'dev'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_sentence(arguments, message, tmp_path, capsys):
    code = benchmarks.main([PROGRAM, f"--workdir={tmp_path}", *arguments])
    assert code == 1
    assert capsys.readouterr().err.startswith(message)


def test_a_row_is_measured_and_reported(tmp_path, capsys):
    only = r"--only=layers: spatial f32\[2, 8, 8, 128\] forward"
    assert benchmarks.main([PROGRAM, f"--workdir={tmp_path}", "--seconds=0", only]) == 0
    (record,) = json.loads((tmp_path / "cpu.json").read_text())["records"]
    assert record["values"][OURS] > 0
    assert record["values"][FLAX] > 0
    assert "spatial f32[2, 8, 8, 128] forward" in (tmp_path / "cpu.md").read_text()
    out = capsys.readouterr().out
    assert "layers: spatial f32[2, 8, 8, 128] forward: time in ms: copy" in out
    assert f"Results are in {tmp_path / 'cpu.json'} and .md." in out


def test_rows_measured_before_stay_beside_new_ones(tmp_path):
    for direction in ("forward", "pullback", "forward"):
        only = rf"--only=layers: spatial f32\[2, 8, 8, 128\] {direction}"
        assert benchmarks.main([PROGRAM, f"--workdir={tmp_path}", "--seconds=0", only]) == 0
    records = json.loads((tmp_path / "cpu.json").read_text())["records"]
    assert [record["row"].split(" ")[-1] for record in records] == ["forward", "pullback"]


def test_a_pattern_picks_rows_that_are_no_single_program(tmp_path):
    only = "--only=overheads: import"
    assert benchmarks.main([PROGRAM, f"--workdir={tmp_path}", "--seconds=0", only]) == 0
    (record,) = json.loads((tmp_path / "cpu.json").read_text())["records"]
    assert record["row"] == "import, beyond jax and chex"


def test_a_second_report_has_a_name_of_its_own(tmp_path, capsys):
    only = r"--only=layers: spatial f32\[2, 8, 8, 128\] forward"
    name = "--name=cpu-jax-0.12"
    assert benchmarks.main([PROGRAM, f"--workdir={tmp_path}", "--seconds=0", only, name]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"cpu-jax-0.12.json", "cpu-jax-0.12.md"}
    assert json.loads((tmp_path / "cpu-jax-0.12.json").read_text())["stem"] == "cpu-jax-0.12"
    assert f"Results are in {tmp_path / 'cpu-jax-0.12.json'} and .md." in capsys.readouterr().out


def test_what_was_measured_before_a_failure_is_kept(tmp_path, monkeypatch):
    def measure(case, seconds):
        if "bf16" in case.row:
            raise KeyboardInterrupt
        yield from original(case, seconds)

    original = benchmarks.here.measure
    monkeypatch.setattr(benchmarks.here, "measure", measure)
    only = r"--only=spatial .*\[2, 8, 8, 128\]"
    assert benchmarks.main([PROGRAM, f"--workdir={tmp_path}", "--seconds=0", only]) == 130
    assert len(json.loads((tmp_path / "cpu.json").read_text())["records"]) == 2
    assert "spatial f32[2, 8, 8, 128] pullback" in (tmp_path / "cpu.md").read_text()


def test_ctrl_c_waits_for_the_row(tmp_path, monkeypatch, capsys):
    def measure(case, seconds):
        yield from original(case, seconds)
        signal.raise_signal(signal.SIGINT)

    original = benchmarks.here.measure
    monkeypatch.setattr(benchmarks.here, "measure", measure)
    only = r"--only=spatial .*\[2, 8, 8, 128\]"
    assert benchmarks.main([PROGRAM, f"--workdir={tmp_path}", "--seconds=0", only]) == 130
    assert len(json.loads((tmp_path / "cpu.json").read_text())["records"]) >= 1
    assert capsys.readouterr().err.splitlines() == [
        "Stopping after this row; Ctrl-C again stops at once.",
        "Interrupted: finished rows are saved.",
    ]


def test_help_says_how(capsys):
    assert benchmarks.main([PROGRAM, "--help"]) == 0
    assert "--device=tpu:v5e:4x4" in capsys.readouterr().out
