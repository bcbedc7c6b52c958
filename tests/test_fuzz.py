"""Awkward arguments: they work, or are refused in one line that names them."""

from . import fuzz


def test_every_public_name_has_a_valid_call():
    with fuzz.settings():
        found = {
            target.name: fuzz.classify(
                fuzz.Input(target, {}, "form" if target.is_traced else "eager")
            )
            for target in fuzz.all_targets()
        }
    assert {name: text for name, text in found.items() if text != ("ok", None)} == {}
