"""Code as a user writes it, with types: mypy --strict and pyright must understand all of it.

`assert_type` states the type that both must find. A comment `type: ignore` marks a mistake that
both must report: an ignore that is not needed is an error.
"""
