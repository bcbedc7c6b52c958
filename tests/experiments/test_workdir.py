import json

import numpy as np
import pytest

from experiments import processes
from experiments.errors import InputError
from experiments.workdir import Workdir


def start(results):
    """Returns the results of a run that has just begun."""
    return {**results, "regularizers": {}, "missing": ["none", "Dropout", "SpatialDropout1D"]}


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def test_a_workdir_is_made_and_removed_if_nothing_is_written(tmp_path):
    folder = tmp_path / "a" / "b"
    with Workdir(folder).locked():
        assert list(folder.iterdir()) == []
    assert not folder.exists()
    with Workdir(folder).locked():
        (folder / "file").touch()
    assert folder.exists()
    with Workdir(tmp_path / "a" / "b").locked():
        (folder / "file").unlink()
    assert folder.exists()  # it was there before


def test_an_unwritable_workdir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^cannot write to the workdir .*file/x: Not a directory"):
        Workdir(tmp_path / "file" / "x").locked().__enter__()


def test_a_workdir_that_orbax_cannot_read(tmp_path):
    path = tmp_path / "runs[1]" / "x"
    with pytest.raises(InputError) as caught:
        Workdir(path)
    assert str(caught.value) == (
        "the path of the workdir must not contain [, because Orbax takes it for a pattern and "
        f"cannot read checkpoints: got {path}"
    )
    assert not path.exists()


def test_saving_replaces_whole_files(results, workdir, monkeypatch):
    path = workdir.path / "results.json"
    workdir.save(results, "# report")
    old = path.read_text()
    assert json.loads(old) == results

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match=r"^cannot write .*results\.json: No space left on device$"):
        workdir.save({**results, "date": "later"}, "# report")
    assert path.read_text() == old
    assert {file.name for file in workdir.path.iterdir()} == {"results.json", "results.md"}


def test_no_file_is_written_that_is_no_json(results, workdir):
    results["baseline_test_score"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        workdir.save(results, "# report")
    assert list(workdir.path.iterdir()) == []


def test_resume_continues_the_results_that_are_there(results, workdir):
    assert workdir.begin(start(results), resume=True) == start(results)  # there are none
    assert not workdir.resumes
    workdir.save(results, "# report")
    assert (workdir.resumes, workdir.is_ours) == (False, True)
    again = Workdir(workdir.path)
    assert again.begin(start(results), resume=True) == {**results, "starts": 2}
    assert (again.resumes, again.is_ours) == (True, True)
    again.save(results, "# report")
    assert {file.name for file in workdir.path.iterdir()} == {"results.json", "results.md"}


def test_without_resume_all_of_an_earlier_run_moves(results, workdir, capsys):
    workdir.save(results, "# report")
    folders = workdir.checkpoints, workdir.metrics, workdir.profile
    for folder in folders:
        (folder / "Dropout-0.5-0").mkdir(parents=True)
    (workdir.path / "notes.txt").touch()
    again = Workdir(workdir.path)
    assert again.begin(start(results), resume=False) == start(results)
    sentence = f"This starts anew, but --resume would continue the run in {workdir.path}.\n"
    assert capsys.readouterr().err == sentence
    assert all(folder.exists() for folder in folders)  # until there is something to save
    again.save(start(results), "# report")
    earlier = workdir.path / "earlier-1"
    assert json.loads((earlier / "results.json").read_text()) == results
    assert all((earlier / folder.name / "Dropout-0.5-0").exists() for folder in folders)
    assert not any(folder.exists() for folder in folders)
    assert (workdir.path / "notes.txt").exists()


def test_a_finished_run_is_not_called_unfinished(results, workdir, capsys):
    workdir.save({**results, "missing": []}, "# report")
    workdir.begin(start(results), resume=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("resume", [True, False])
def test_processes_with_another_workdir_get_one_sentence(results, tmp_path, monkeypatch, resume):
    """All have the same config. Without results, the second one misses the mark of the first."""
    digests = []
    monkeypatch.setattr(
        processes, "gather", lambda digest: digests.append(digest) or np.array(digests)
    )
    for name in ("first", "other"):
        (tmp_path / name).mkdir()
    first = Workdir(tmp_path / "first")
    if resume:
        first.save(results, "# report")
    first.begin(start(results), resume)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    with pytest.raises(InputError) as caught:
        Workdir(tmp_path / "other").begin(start(results), resume)
    assert str(caught.value) == (
        "all processes need the same config, data, --resume and workdir: "
        "process 1 has others than process 0"
    )


def test_nothing_is_left_behind_if_another_process_ends(results, tmp_path, monkeypatch):
    def fail(where):
        raise InputError("another process has ended, and its own output says why")

    monkeypatch.setattr(processes, "meet", fail)
    new = Workdir(tmp_path / "new")
    with pytest.raises(InputError, match="another process"), new.locked():
        new.begin(start(results), resume=False)
    assert not new.path.exists()


def test_only_the_first_process_says_that_a_run_starts_anew(results, workdir, capsys, monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    path = workdir.path / "results.json"
    path.write_text(json.dumps({**results, "versions": {}}))
    for resume in (False, True):
        Workdir(workdir.path).begin(start(results), resume)
    assert capsys.readouterr().err == ""


def test_resume_takes_another_mesh(results, workdir):
    results["config"]["mesh"] = {"data": 1}
    workdir.save(results, "# report")
    other = start(results)
    other["config"] = {**results["config"], "mesh": {"data": 2}}
    found = {**results, "config": other["config"], "starts": 2}
    assert workdir.begin(other, resume=True) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"config": {"seeds": 3}},
            "was made with config.seeds=3, not 2: use the same config or another --workdir",
        ),
        (  # the first field that differs is not the one to name
            {"config": {"seeds": 3, "task": "language"}},
            "was made with config.task='language', not None: use the same config or another "
            "--workdir",
        ),
        (
            {"config": {"other": 3}},
            "was made with config.rates=None, not [0.1, 0.5, 0.7]: use the same config or another "
            "--workdir",
        ),
        (
            {"data": {"words": 7}},
            "was made with data.words=7, not None: use the same data or another --workdir",
        ),
        ({"measures": None}, "has results of another program: use another --workdir"),
    ],
)
def test_resume_refuses_other_results(results, workdir, change, message):
    found = json.loads(json.dumps(results))
    for part, value in change.items():
        if value is None:
            del found[part]
        elif "other" in value:
            del found[part]["rates"]
        else:
            found[part].update(value)
    workdir.save(results, "# report")
    path = workdir.path / "results.json"
    path.write_text(json.dumps(found))
    before = path.read_text()
    with pytest.raises(InputError) as caught:
        workdir.begin(start(results), resume=True)
    assert str(caught.value) == f"{workdir.path} {message}"
    assert path.read_text() == before


def test_resume_refuses_results_that_cannot_be_read(results, workdir):
    path = workdir.path / "results.json"
    path.write_text("{")
    with pytest.raises(
        InputError, match=r" has a results\.json that cannot be read \(.*\): use another --workdir$"
    ):
        workdir.begin(results, resume=True)
    assert workdir.begin(results, resume=False) == results
    workdir.save(results, "# report")
    assert (workdir.path / "earlier-1" / "results.json").read_text() == "{"
