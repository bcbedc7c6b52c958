"""The table of a summary, its remarks, and the bytes kept for the backward pass."""

import jax
import jax.numpy as jnp

from flax_spatialdrop import Site, Summary, dropout, spatial_dropout_1d
from flax_spatialdrop._summary import kept_for_backward, remarks

DRAWN = Site("drop", "Dropout", (4, 6, 8), (4, 6, 8), (0.1, 0.3), "dropout", True, 3, 2, 2048)
GIVEN = Site("", "SpatialDropout1D", (4, 6, 8), (4, 1, 8), (0.5,), "a mask", True, 1, 1, 3 << 20)
OFF = Site("off", "flax.linen.Dropout", (4, 6, 8), (4, 1, 8), (0.0,), "", False, 1, 0, 0)

TABLE = """\
site       module              mask       of x       rate        stream   active  flips     kept  runs
drop       Dropout             [4, 6, 8]  [4, 6, 8]  0.1 to 0.3  dropout  yes       384  2.0 KiB     3
the model  SpatialDropout1D    [4, 1, 8]  [4, 6, 8]  0.5         a mask   yes         0  3.0 MiB     1
off        flax.linen.Dropout  [4, 1, 8]  [4, 6, 8]  0           -        no          0      0 B     1
kept for the backward pass: 3.0 MiB
- never drops, at a rate of 0: off"""  # noqa: E501


def test_the_table():
    summary = Summary((DRAWN, GIVEN, OFF), ("never drops, at a rate of 0: off",))
    assert str(summary) == TABLE
    assert repr(summary) == TABLE


def test_long_paths_end_their_lines_between_names():
    names = [f"encoder_layer_{i}" for i in range(9)]
    long = Site("/".join(names), "N" * 50, (2,) * 30, (2,) * 30, (0.1,), "dropout", True, 1, 1, 8)
    head, *lines = str(Summary((long,), ())).splitlines()
    sites = [line[: head.index("module")].strip() for line in lines[:-1]]
    assert "".join(sites) == long.path
    assert all(set(site.strip("/").split("/")) <= {*names} for site in sites)
    assert "N" * 50 in lines[0]
    assert str([2] * 30) in lines[0]


def test_nothing_to_show():
    assert str(Summary((), ())) == "No regularizer was called."


def test_coin_flips_are_those_of_the_masks_that_differ():
    assert [site.coin_flips for site in (DRAWN, GIVEN, OFF)] == [2 * 4 * 6 * 8, 0, 0]


def site(path, stream="dropout", noise_shape=(4, 6, 8), rates=(0.5,), runs=1):
    return Site(path, "Dropout", (4, 6, 8), noise_shape, rates, stream, True, runs, 1, 8)


def test_who_shares_a_mask_and_who_a_key():
    """Two masks of one key are the same only if noise shape and rate are the same."""
    sites = [
        site("a"),
        site("same"),
        site("other shape", noise_shape=(4, 1, 8)),
        site("other rate", rates=(0.1,)),
        site("other key"),
        site("given", stream="a mask"),
        site("given again", stream="a mask", noise_shape=(4, 1, 8)),
        site("scanned", runs=3),
    ]
    words = [b"1", b"1", b"1", b"1", b"2", b"1", b"1", b"3"]
    assert remarks(sites, [{word} for word in words]) == [
        "same shares its mask with a",
        "other shape shares its key with a",
        "other rate shares its key with a",
        "given again shares its mask with given",
        "scanned has 1 key for its 3 runs",
    ]


def test_drops_everything_only_where_every_run_does():
    assert remarks([site("all", rates=(1.0,))], [{b"1"}]) == [
        "drops everything, at a rate of 1: all"
    ]
    assert remarks([site("some", rates=(0.5, 1.0))], [{b"1"}]) == []


def test_what_is_kept_for_backward():
    x = jnp.ones((4, 6, 8), jnp.bfloat16)
    key = jax.random.key(0)
    assert kept_for_backward(lambda x: x, x) == 0
    assert kept_for_backward(jnp.sin, x) == x.size * 2  # the cosine
    assert kept_for_backward(lambda x: spatial_dropout_1d(key, x, 0.5), x) == 4 * 8
    assert kept_for_backward(lambda x: dropout(key, x, 0.5), x) == 8


def test_zeros_are_not_kept():
    """JAX lists the zeros of a select as residuals, but XLA computes them where they are used."""

    def select(x):
        return jax.lax.select(x > 0, x, jnp.zeros_like(x))

    assert kept_for_backward(select, jnp.ones((4, 8))) == 4 * 8
