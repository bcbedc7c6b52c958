"""The version is written in one place, and all other files agree with it."""

import pathlib
import re
import tomllib

import flax_spatialdrop

ROOT = pathlib.Path(__file__).parent.parent


def test_the_changelog_begins_with_what_is_unreleased_and_this_version():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "Unreleased"
    version, _, date = headings[1].partition(" - ")
    assert version == flax_spatialdrop.__version__
    assert re.fullmatch(r"(\d{4}-\d\d-\d\d)?", date)


def test_the_version_is_written_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"] == {"path": "flax_spatialdrop/__init__.py"}
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(), re.M)


def test_the_source_distribution_holds_what_the_tests_read():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {"/docs", "/configs", "/experiments", "/flax_spatialdrop", "/tests"} <= {*included}
    assert [name for name in included if not (ROOT / name[1:]).exists()] == []
