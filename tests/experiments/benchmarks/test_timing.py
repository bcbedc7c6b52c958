import jax
import pytest

from experiments.benchmarks import timing


class Clock:
    """A clock that each call advances by its number of seconds."""

    def __init__(self, monkeypatch, costs):
        self.now, self.order, self.costs = 0.0, [], costs
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self, name):
        def run():
            self.order.append(name)
            self.now += self.costs[name]

        return run


def test_medians_of_the_second_of_two_calls(monkeypatch):
    clock = Clock(monkeypatch, {"a": 1.0, "b": 3.0})
    times = timing.times({name: clock.call(name) for name in "ab"}, seconds=0)
    assert times["a"] == pytest.approx((1000, 1000, 1000))
    assert times["b"] == pytest.approx((3000, 3000, 3000))
    rounds = clock.order[4:]  # each is first called once to compile and once to estimate its time
    assert len(rounds) == timing.MIN_ROUNDS * 4
    turns = ["".join(rounds[i : i + 4]) for i in range(0, len(rounds), 4)]
    assert set(turns) == {"aabb", "bbaa"}  # each twice, in alternating order


def test_rounds_go_on_for_the_time_given(monkeypatch):
    clock = Clock(monkeypatch, {"a": 1.0})
    timing.times({"a": clock.call("a")}, seconds=30)
    assert len(clock.order) == pytest.approx(2 + 2 * 16, abs=2)


def test_short_calls_are_repeated(monkeypatch):
    clock = Clock(monkeypatch, {"a": timing.LEAST_SAMPLE / 8})
    times = timing.times({"a": clock.call("a")}, seconds=0)
    assert len(clock.order) == 2 + timing.MIN_ROUNDS * (1 + 8)
    assert times["a"].median == pytest.approx(1e3 * timing.LEAST_SAMPLE / 8)


@pytest.mark.parametrize(
    ("cost", "at_once"), [(1e-4, timing.IN_FLIGHT), (timing.FILLED / 3.5, 4), (1.0, 1)]
)
def test_an_accelerator_is_given_many_short_calls_at_once(cost, at_once, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    waits = []
    monkeypatch.setattr(jax, "block_until_ready", waits.append)
    clock = Clock(monkeypatch, {"a": cost})
    times = timing.times({"a": clock.call("a")}, seconds=0)
    assert len(clock.order) == 2 + timing.MIN_ROUNDS * (1 + at_once)
    assert len(waits) == 2 + timing.MIN_ROUNDS * 2
    assert times["a"].median == pytest.approx(1e3 * cost)


def test_programs_are_compiled_for_the_same_arguments():
    found = timing.compiled({"a": jax.numpy.add, "b": jax.numpy.multiply}, 2, 3)
    assert [(name, program(2, 3)) for name, program in found.items()] == [("a", 5), ("b", 6)]


def test_summary_is_median_and_quartiles_in_milliseconds():
    assert timing.summary([0.001, 0.002, 0.003, 0.004, 0.005]) == pytest.approx((3, 2, 4))
