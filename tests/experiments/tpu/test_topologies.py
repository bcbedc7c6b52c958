import pytest

from experiments.errors import InputError
from experiments.tpu import topologies


@pytest.mark.parametrize(
    ("why", "sentence"),
    [
        (
            "no such slice",
            "a TPU topology needs a name such as v5e:4x4, v5e:16x16, v5p:2x2x4, v5p:8x16x16 or "
            "v6e:16x16: got 'v5e:3x5' (no such slice)",
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

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", fail)
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError) as error:
        topologies.mesh("v5e:3x5")
    assert str(error.value) == sentence


@pytest.mark.parametrize("name", ["", "none", "v5e", "v9z:4x4", "v5e:4", "v5e:4x4x4x4"])
def test_a_name_of_no_topology_needs_no_compiler(name, monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        topologies.chips(name)
    assert str(error.value) == (
        "a TPU topology needs a name such as v5e:4x4, v5e:16x16, v5p:2x2x4, v5p:8x16x16 or "
        f"v6e:16x16: got {name!r}"
    )


def test_a_missing_compiler_names_the_extra(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        topologies.mesh("v5e:4x4")
    assert str(error.value) == (
        "compiling for TPUs needs the package libtpu: pip install -e '.[experiments,tpu]'"
    )


def test_the_compiler_writes_schedules_where_it_is_told(monkeypatch, tmp_path):
    found = []

    def describe(**kwargs):
        found.append(topologies.os.environ["LIBTPU_INIT_ARGS"])
        raise RuntimeError("no such slice")

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", describe)
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--theirs=1")
    with pytest.raises(InputError):
        topologies.chips("v5e:3x5", tmp_path)
    assert found[0].startswith(f"--theirs=1 --xla_jf_dump_to={tmp_path} ")


def test_peak_figures_are_those_of_a_kind_of_chips():
    assert topologies.peak("v5e:16x16").bytes_a_cycle == pytest.approx(546)
    assert topologies.peak("v99:4x4") is None
