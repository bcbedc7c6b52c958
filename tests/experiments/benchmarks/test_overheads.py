import pytest

from experiments.benchmarks import overheads
from experiments.benchmarks.libraries import FLAX, OURS, SPATIAL


@pytest.fixture(autouse=True)
def _few_and_small(monkeypatch):
    monkeypatch.setattr(overheads, "ROUNDS", 2)
    monkeypatch.setattr(overheads, "DEPTH", 2)


def test_eager_calls_compare_modules_and_the_function():
    record = overheads.eager_calls(SPATIAL, 0)
    assert {OURS, FLAX, overheads.FUNCTION} <= set(record.values)
    assert record.speedup > 0


def test_eager_nnx_calls_compare_modules():
    record = overheads.eager_nnx_calls(SPATIAL, 0)
    assert {OURS, FLAX} <= set(record.values)
    assert record.speedup > 0


def test_a_new_rate_is_timed_without_the_first_of_all():
    record = overheads.new_rates()
    assert record.values[OURS] < 1000


def test_stages_are_timed_one_by_one():
    records = list(overheads.stages(SPATIAL))
    assert [r.row.split(" ")[0] for r in records] == list(overheads.STAGES)
    assert all(value > 0 for r in records for value in r.values.values())


def test_the_import_is_timed_in_fresh_processes():
    record = overheads.import_time()
    assert 0 < record.values[OURS] < 10_000
