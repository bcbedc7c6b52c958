"""Docstrings are composed: each argument is explained once, and `help` shows it everywhere."""

import inspect

from flax_spatialdrop._docs import document


def function(key, x, rate, *, size, mode):
    """Drops values.

        y = x * m

    Some text.

    Args:
      key: as in `other`.
      x, rate: as in `other`.
      size: how many
        of them.
      mode: one of two.

    Returns:
      An array.

    Example:
      >>> 1 + 1
      2

    Reference: Someone, 2014,
    https://example.org
    """


class Base:
    """The base.

    Args:
      rate: probability to drop.
      size: of the base.
      mode: of the base.
    """


class Module:
    """The module of `function`.

    Args:
      mode: of the module.

    Example:
      >>> 2 + 2
      4
    """


def test_a_module_is_explained_by_itself_then_its_function_then_its_bases():
    class Copy:
        __doc__ = Module.__doc__

    document(Copy, ["rate", "size", "mode", "unknown"], "Args", function, [object, Base])
    expected = """\
Drops values.

    y = x * m

Some text.

The module of `function`.

Args:
  rate: probability to drop.
  size: how many
    of them.
  mode: of the module.

Example:
  >>> 2 + 2
  4

Reference: Someone, 2014,
https://example.org"""
    assert inspect.getdoc(Copy) == expected


def test_an_equation_of_its_own_is_in_place_of_the_function_s():
    def own():
        """Does more.

            y = 2 x * m

        Other text.
        """

    document(own, ["x", "rate"], "Args", function)
    expected = """\
Does more.

    y = 2 x * m

Other text.

Args:
  x, rate: as in `other`.

Returns:
  An array.

Reference: Someone, 2014,
https://example.org"""
    assert inspect.getdoc(own) == expected


def test_without_docstrings_there_is_nothing_to_complete():
    def bare(x):
        pass

    document(bare, ["x"], "Args", function)
    assert bare.__doc__ is None
