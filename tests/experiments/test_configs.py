import re
from pathlib import Path

import pytest

from configs import pos_tagging
from experiments.tagging.models import REGULARIZERS

ROOT = Path(__file__).parents[2]
TABLE_OF = {"pos_tagging": "Part-of-speech", "pos_tagging-seq2seq": "`:seq2seq`"}


def header_rows(name):
    """The table in the config's header that follows the words that open its paragraph."""
    text = pos_tagging.__doc__.split(TABLE_OF[name])[1]
    names = "|".join(["most frequent tag", *REGULARIZERS])
    rows = {}
    for line in text.splitlines():
        match = re.match(rf"    ({names})  ", line.replace(" at ", "  at "))
        if match and match[1] not in rows:
            rows[match[1]] = line
    return rows


def report_rows(name):
    lines = (ROOT / "experiments" / "results" / name / "results.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows if len(row) == 6}


@pytest.mark.parametrize("name", TABLE_OF)
def test_the_header_quotes_the_table_of_results(name):
    quoted, reported = header_rows(name), report_rows(name)
    assert quoted.keys() == {"most frequent tag", *pos_tagging.get_config().regularizers}
    for regularizer, line in quoted.items():
        rate, _, test, over_none, _ = reported[regularizer]
        numbers = [number.replace("+-", "±") for number in re.findall(r"\S+ \+- \S+", line)]
        assert numbers == [cell for cell in (test, over_none) if "±" in cell]
        assert re.findall(r" at (\S+)", line) == ([rate] if rate else [])
    assert reported["most frequent tag"][2] in quoted["most frequent tag"]


def test_all_variants_but_smoke_leave_room_for_early_stopping():
    assert pos_tagging.get_config().epochs == pos_tagging.get_config("seq2seq").epochs == 100
