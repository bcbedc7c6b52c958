"""Every Python example of the book and the README runs, and prints what the page says.

A page is one session from top to bottom, but on the pages of ALONE each block runs alone. If a
block ```text follows a block ```python, it is the output of the code. A block that begins with a
comment such as "# Flax 0.12.7 and later" is left out with an older Flax.
"""

import contextlib
import io
import pathlib
import re

import flax
import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
ALONE = {"README.md", "docs/recipes.md", "docs/training.md"}
"""Pages whose blocks readers copy one by one."""

FILES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text() for path in FILES if "_build" not in path.parts
}
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n?^```text\n(.*?)^```\n)?", re.M | re.S)

_NEEDS = re.compile(r"# Flax (\S+) and later\n")


def _numbers(version):
    return tuple(map(int, version.split(".")[:3]))


def blocks(text):
    """Yields the line, the code and the output (or None) of each example of a page."""
    for match in _BLOCK.finditer(text):
        needed = _NEEDS.match(match[1])
        if needed and _numbers(flax.__version__) < _numbers(needed[1]):
            continue
        yield text[: match.start()].count("\n") + 1, match[1], match[2]


def run(name, text):
    """Runs the examples; returns (line, what it printed, what it should print) of each."""
    session, found = {"__name__": name}, []
    for line, code, expected in blocks(text):
        session = {"__name__": name} if name in ALONE else session
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + code, name, "exec"), session)  # so that errors name the line
        found.append((line, printed.getvalue(), expected or ""))
    return found


@pytest.mark.parametrize("name", sorted(name for name in PAGES if [*blocks(PAGES[name])]))
def test_the_examples_of_a_page_run(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # JAX's defaults
        found = run(name, PAGES[name])
    assert [f"{line}: {printed}" for line, printed, _ in found] == [
        f"{line}: {expected}" for line, _, expected in found
    ]


def test_what_a_block_prints_is_compared_with_the_text_after_it():
    page = "```python\nprint(1)\n```\n\n```text\n2\n```\n\n```python\nprint(3)\n```\n"
    assert run("page", page) == [(1, "1\n", "2\n"), (9, "3\n", "")]


def test_a_block_for_a_later_flax_is_left_out():
    page = "".join(f"```python\n# Flax {v} and later\nprint(1)\n```\n" for v in ("0.1.2", "99.1.2"))
    assert run("page", page) == [(1, "1\n", "")]
