import io

import pytest
from rich.console import Console

from experiments import progress


@pytest.fixture
def clock(monkeypatch):
    times = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))


def show(console, shares=(0.25, 0.5, 0.75)):
    with progress.Display(console) as display:
        display.begin("Dropout")
        for share in shares:
            display.update(share, "rate 0.5  seed 1", 1.5, "90.0 %")
        display.end(61, 20)


def test_without_a_terminal_there_are_plain_lines_now_and_then(clock):
    out = io.StringIO()
    show(Console(file=out, force_terminal=False))
    assert out.getvalue().splitlines() == [
        "Dropout: compiling (can take a minute)",
        "Dropout:  75 %  rate 0.5  seed 1  loss 1.500  validation 90.0 %",
        "Dropout: finished in 61 s, 20 s of it compiling",
    ]


def test_the_last_state_of_runs_that_end_early_is_a_line_too(clock):
    out = io.StringIO()
    show(Console(file=out, force_terminal=False), shares=(0.25, 0.5))
    assert out.getvalue().splitlines() == [
        "Dropout: compiling (can take a minute)",
        "Dropout:  50 %  rate 0.5  seed 1  loss 1.500  validation 90.0 %",
        "Dropout: finished in 61 s, 20 s of it compiling",
    ]


def test_a_terminal_has_room_for_the_state():
    out = io.StringIO()
    with progress.Display(Console(file=out, force_terminal=True, width=96)) as display:
        display.begin("SpatialDropout1D")
        display.update(0.5, "rate 0.5  seed 1", 1.5, "90.0 %")
        display._bar.refresh()
    assert " 50 %  rate 0.5  seed 1  loss 1.500  validation 90.0 %" in out.getvalue()


def test_a_terminal_has_a_bar_and_no_lines():
    out = io.StringIO()
    show(Console(file=out, force_terminal=True, width=96))
    assert "61 s, 20 s of it compiling" in out.getvalue()
    assert "━" in out.getvalue()
    assert "Dropout: " not in out.getvalue()
