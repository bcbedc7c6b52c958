"""The page on the architecture: its drawing has the order of imports, and its example works."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from tests.test_architecture import ORDER

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text()
DRAWING = ROOT / "docs/_static/architecture.svg"
_BLOCK = re.compile(r"^```py\n# (\S+\.py)\n(.*?)^```\n", re.M | re.S)


def rows(svg):
    """Returns the names of the parts in each row of a drawing, from the lowest row to the top."""
    found = {}
    for text in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        if text.get("class") == "part":
            row = float(text.get("y")) // 60  # the distance of rows
            found.setdefault(row, set()).add(text.text)
    return [found[row] for row in sorted(found, reverse=True)]


def test_the_drawing_has_the_order_of_imports():
    assert rows(DRAWING.read_text()) == ORDER


def test_another_order_would_be_seen():
    svg = DRAWING.read_text()
    names = {"_apply": "_random", "_random": "_apply"}
    swapped = re.sub(">(_apply|_random)<", lambda match: f">{names[match[1]]}<", svg)
    assert rows(swapped) != ORDER


def test_the_table_names_every_part():
    table = PAGE[PAGE.index("| where |") : PAGE.index("## Where is it?")]
    for name in set().union(*ORDER) - {"experiments"}:
        assert re.search(rf"`{name}(\.py|/)`", table), name


def test_the_map_names_every_part_of_the_experiments():
    section = PAGE[PAGE.index("## The experiments") : PAGE.index("## What to touch")]
    experiments = ROOT / "experiments"
    files = {*experiments.glob("*.py"), *(experiments / "tpu").glob("*.py")}
    folders = {path.parent for path in experiments.glob("*/__init__.py")}
    names = {path.name for path in files} - {"__init__.py"} | {f"{path.name}/" for path in folders}
    assert not [name for name in names if f"`{name}`" not in section]


@pytest.mark.slow
def test_the_example_passes_the_contracts(tmp_path):
    for name in ("flax_spatialdrop", "tests", "pyproject.toml"):
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / name)
    for name, code in _BLOCK.findall(PAGE):
        path = tmp_path / name
        text = path.read_text() if path.exists() else ""
        if name == "tests/catalogue.py":
            assert "\nFIRST_OF_EACH" in text
            text = text.replace("\nFIRST_OF_EACH", f"\n{code}\nFIRST_OF_EACH", 1)
        else:
            text = f"{text}\n\n{code}" if text else code
        path.write_text(text)
    files = "tests/test_contracts.py", "tests/test_programs.py"
    options = "-p", "no:xdist", "-p", "no:cacheprovider", "-q", "-k", "column_blackout"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *files, *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.match(r"[.s]{40,} ", done.stdout)  # so many contracts
