"""Awkward arguments work, or raise an error of one line that names them."""

import os

import pytest

from . import fuzz

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))  # 40000 for a long run of ten minutes


def test_every_public_name_has_a_valid_call():
    with fuzz.settings():
        valid = [
            fuzz.Input(target, {}, "form" if target.is_traced else "eager")
            for target in fuzz.all_targets()
        ]
        found = {given.target.name: fuzz.classify(given) for given in valid}
    assert {name: text for name, text in found.items() if text != ("ok", None)} == {}


def test_a_name_without_valid_arguments_is_an_error():
    with pytest.raises(LookupError, match="needs a valid value for \\['unheard_of'\\] of new"):
        fuzz.of_function("new", "fs", lambda x, unheard_of: None)


def test_awkward_arguments_are_refused_in_one_line_that_names_them():
    counts, groups, _ = fuzz.fuzz(INPUTS)
    print(fuzz.report(counts, groups))
    assert counts.total() == INPUTS
    assert not counts.keys() & {"several lines", "too long", "argument not named", "wrong output"}
    assert counts["foreign error"] * 80 < INPUTS  # fewer than 500 of 40,000


def foreign(x):
    return x + None


def of_ours(message):
    source = compile(f"def refuse(): raise ValueError({message!r})", fuzz.PACKAGE + "/x.py", "exec")
    exec(source, namespace := {})
    return namespace["refuse"]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (of_ours("rate must be a number"), "refused well"),
        (of_ours("rate must be\na number"), "several lines"),
        (of_ours("rate " + "x" * 400), "too long"),
        (of_ours("it separates"), "argument not named"),
        (lambda: foreign(1), "foreign error"),
        (lambda: 1, "ok"),
    ],
)
def test_each_class(call, kind):
    target = fuzz.Target("new", ("rate",), {}, lambda given: call())
    given = fuzz.Input(target, {"rate": ("int", lambda: 3)}, "eager")
    assert fuzz.classify(given)[0] == kind
