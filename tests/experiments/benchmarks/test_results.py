import pytest

from experiments.benchmarks.results import Record, Results, this_device, timed
from experiments.benchmarks.timing import Time
from experiments.errors import InputError

from ...errors import exactly

TIMES = {
    "copy": Time(1.0, 0.9, 1.1),
    "flax_spatialdrop": Time(2.0, 1.9, 2.1),
    "Flax": Time(8.0, 7.8, 8.6),
    "Flax again": Time(8.2, 8.0, 8.4),
}


def test_speedup_and_noise():
    record = timed("layers", "a row", "time in ms", TIMES, baseline="copy")
    assert record.values["Flax"] == 8
    assert record.spread["Flax"] == (7.8, 8.6)
    assert record.speedup == 4
    # Half of the distance of the quartiles, since the twin differs only by 0.025.
    assert record.noise == pytest.approx(0.05)
    record.values["Flax again"] = 4.0
    assert record.noise == pytest.approx(0.5)


def test_what_cannot_be_compared_has_neither():
    record = Record("overheads", "import", "time in ms", {"flax_spatialdrop": 7.0})
    assert record.speedup is None
    assert record.noise is None
    zero = Record("networks", "a row", "collectives", {"flax_spatialdrop": 0.0, "Flax": 0.0})
    assert zero.speedup is None


def test_a_file_gives_back_what_was_saved(tmp_path):
    results = Results.start("cpu", "a device")
    results.records.append(timed("layers", "a row", "time in ms", TIMES, baseline="copy"))
    results.save(tmp_path / "cpu.json")
    loaded = Results.load(tmp_path / "cpu.json")
    assert loaded.versions == results.versions
    assert loaded.records[0].values == results.records[0].values
    assert loaded.records[0].speedup == 4
    assert [path.name for path in tmp_path.iterdir()] == ["cpu.json"]


def test_rows_of_other_versions_are_not_replaced(tmp_path):
    path = tmp_path / "cpu.json"
    earlier = Results.start("cpu", "a device")
    earlier.save(path)
    Results.start("cpu", "a device").join(path)
    earlier.versions["jax"] = "0.0.1"
    earlier.save(path)
    message = (
        f"{path} has rows of another device or of other versions, which this run would "
        "replace: use another --name or --workdir, or move the file"
    )
    with pytest.raises(InputError, match=exactly(message)):
        Results.start("cpu", "a device").join(path)


def test_the_device_has_a_name():
    assert this_device().partition(" cores of ")[2]
