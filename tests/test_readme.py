"""The README's numbers are those that the repository's commands printed."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_table_of_results_is_the_one_that_was_printed():
    results = ROOT / "experiments/results/pos_tagging/results.md"
    rows = [line for line in results.read_text().splitlines() if line.startswith("|")]
    assert len(rows) >= 7
    assert "\n".join(rows) in README


def test_every_file_that_it_links_to_is_there():
    targets = [part.split(")")[0] for part in README.split("](")[1:]]
    files = [target for target in targets if not target.startswith(("http", "#"))]
    assert files
    assert [target for target in files if not (ROOT / target).exists()] == []
