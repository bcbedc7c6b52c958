"""The table of a summary, and what is said to be kept."""

import jax
import jax.numpy as jnp

from flax_spatialdrop import Site, Summary, dropout, spatial_dropout_1d
from flax_spatialdrop._summary import kept_for_backward

DRAWN = Site("drop", "Dropout", (4, 6, 8), (4, 6, 8), (0.1, 0.3), "dropout", True, 3, 2, 2048)
GIVEN = Site("", "SpatialDropout1D", (4, 6, 8), (4, 1, 8), (0.5,), "a mask", True, 1, 1, 3 << 20)
OFF = Site("off", "flax.linen.Dropout", (4, 6, 8), (4, 1, 8), (0.0,), "", False, 1, 0, 0)

TABLE = """\
site         module              mask       of x       rate        stream   active  flips     kept  runs
drop         Dropout             [4, 6, 8]  [4, 6, 8]  0.1 to 0.3  dropout  yes       384  2.0 KiB     3
(the model)  SpatialDropout1D    [4, 1, 8]  [4, 6, 8]  0.5         a mask   yes         0  3.0 MiB     1
off          flax.linen.Dropout  [4, 1, 8]  [4, 6, 8]  0           -        no          0      0 B     1
kept for the backward pass: 3.0 MiB
- off never drops: its rate is 0"""  # noqa: E501


def test_the_table():
    summary = Summary((DRAWN, GIVEN, OFF), ("off never drops: its rate is 0",))
    assert str(summary) == TABLE
    assert repr(summary) == TABLE


def test_nothing_to_show():
    assert str(Summary((), ())) == "No regularizer was called."


def test_coin_flips_are_those_of_the_masks_that_differ():
    assert [site.coin_flips for site in (DRAWN, GIVEN, OFF)] == [2 * 4 * 6 * 8, 0, 0]


def test_what_is_kept_for_backward():
    x = jnp.ones((4, 6, 8), jnp.bfloat16)
    key = jax.random.key(0)
    assert kept_for_backward(lambda x: x, x) == 0
    assert kept_for_backward(jnp.sin, x) == x.size * 2  # the cosine
    assert kept_for_backward(lambda x: spatial_dropout_1d(key, x, 0.5), x) == 4 * 8
    assert kept_for_backward(lambda x: dropout(key, x, 0.5), x) == 8


def test_zeros_are_not_kept():
    """As JAX lists them for a select: XLA makes them where they are used."""

    def select(x):
        return jax.lax.select(x > 0, x, jnp.zeros_like(x))

    assert kept_for_backward(select, jnp.ones((4, 8))) == 4 * 8
