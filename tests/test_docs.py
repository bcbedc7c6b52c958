"""Docstrings are composed: each argument is explained once, and `help` shows it everywhere."""

import inspect

from flax_spatialdrop._docs import completed_by, document


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


class WithExample:
    """The base.

    Example:
      >>> import math
      >>> from flax_spatialdrop.linen import LSTM
      >>> layer = LSTM(8)
    """


def test_a_class_has_the_example_of_its_base_with_its_own_name():
    class GRU:
        """The module of something."""

    document(GRU, [], "Args", None, [WithExample, Base])
    expected = """\
Example:
  >>> import math
  >>> from flax_spatialdrop.linen import GRU
  >>> layer = GRU(8)"""
    assert inspect.getdoc(GRU).endswith(expected)


class Call:
    def __call__(self, inputs, key, rate):
        """Applies it.

        Args:
          inputs: an array.
          key, rate: what they are.

        Returns:
          An array.

        Raises:
          ValueError: often.
        """


def test_a_method_is_completed_by_another():
    class Other:
        @completed_by(Call.__call__)
        def __call__(self, inputs, ids, rate):
            """Does more.

            Args:
              inputs: a table.
              ids: of words.

            Returns:
              Rows.
            """

    expected = """\
Does more.

Args:
  inputs: a table.
  ids: of words.
  key, rate: what they are.

Returns:
  Rows.

Raises:
  ValueError: often."""
    assert inspect.getdoc(Other.__call__) == expected


def test_without_docstrings_there_is_nothing_to_complete():
    def bare(x):
        pass

    document(bare, ["x"], "Args", function)
    assert bare.__doc__ is None
