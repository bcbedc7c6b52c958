import subprocess
import sys

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

from flax_spatialdrop import dropout, explain, plot_mask, sample_mask

from ..errors import exactly

mpl.use("Agg")


def test_the_example_that_everybody_asks_about():
    text = explain((2, 2, 2), (1, 2, 2))
    assert "axis 0 shares its draw" in text
    assert "4 independent coin flips" in text
    assert "zeros possible 0, 2, 4, 6, 8" in text


@pytest.mark.parametrize(
    ("shape", "options", "lines"),
    [
        (
            (32, 64, 64, 128),
            {"broadcast_dims": (1, 2)},
            [
                "x.shape (32, 64, 64, 128), noise_shape (32, 1, 1, 128)",
                "axes 1, 2 share their draw; axes 0, 3 have draws of their own",
                "4096 independent coin flips, each for 4096 of the 16777216 elements",
                "zeros possible 0, 4096, 8192, ..., 16777216, the multiples of 4096",
            ],
        ),
        (
            [5],
            {},
            [
                "x.shape (5,), noise_shape (5,)",
                "axis 0 has draws of its own",
                "5 independent coin flips, each for 1 of the 5 elements",
                "zeros possible 0, 1, 2, 3, 4, 5",
            ],
        ),
        (
            (2, 1),
            {"noise_shape": (1, 1)},
            [
                "x.shape (2, 1), noise_shape (1, 1)",
                "axis 0 shares its draw; axis 1 has draws of its own",
                "1 independent coin flip, each for 2 of the 2 elements",
                "zeros possible 0, 2",
            ],
        ),
        (
            (),
            {},
            [
                "x.shape (), noise_shape ()",
                "no axes: one draw for the only element",
                "1 independent coin flip, each for 1 of the 1 elements",
                "zeros possible 0, 1",
            ],
        ),
        (
            (0, 3),
            {},
            [
                "x.shape (0, 3), noise_shape (0, 3)",
                "axes 0, 1 have draws of their own",
                "0 independent coin flips, each for 0 of the 0 elements",
                "zeros possible 0",
            ],
        ),
    ],
)
def test_text(shape, options, lines):
    assert explain(shape, **options).splitlines() == lines


def test_what_it_says_is_what_happens():
    """300 draws have all numbers of zeros that explain lists, and no others."""
    keys = jax.random.split(jax.random.key(0), 300)
    y = jax.vmap(
        lambda key: dropout(key, np.ones((2, 2, 2), np.float32), 0.5, noise_shape=(1, 2, 2))
    )(keys)
    counts = {int(n) for n in (np.asarray(y) == 0).sum(axis=(1, 2, 3))}
    said = explain((2, 2, 2), (1, 2, 2)).splitlines()[-1].removeprefix("zeros possible ")
    assert counts == {int(n) for n in said.split(", ")}


def test_bad_noise_shape_is_explained_as_by_dropout():
    with pytest.raises(ValueError, match="noise_shape needs one entry per axis of x"):
        explain((2, 3), (1,))


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        (5, TypeError, "shape must be a tuple of sizes: got 5"),
        (
            (2.0, 3),
            TypeError,
            "shape must hold integers: got 2.0 in (2.0, 3); entries may be None only where "
            "x is given",
        ),
        ((2, -1), ValueError, "shape cannot have a negative size: got (2, -1)"),
    ],
)
def test_bad_shapes(shape, error, message):
    with pytest.raises(error, match=exactly(message)):
        explain(shape)


def cells(ax):
    """Returns all cells of a plot, True if the color is light."""
    grids = [mesh.cmap(mesh.norm(mesh.get_array())) for mesh in ax.collections]
    return np.concatenate([grid[..., :3].sum(-1).ravel() > 1 for grid in grids])


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 2, 3, 4)])
def test_plot_has_a_cell_an_element_and_darkens_the_dropped(shape):
    import matplotlib.pyplot as plt

    mask = np.asarray(sample_mask(jax.random.key(1), 0.5, shape))
    for array in (mask, np.where(mask, 2.0, 0.0)):
        ax = plot_mask(array, title="a title")
        np.testing.assert_array_equal(cells(ax), mask.ravel())
        assert ax.get_title() == "a title"
        plt.close(ax.figure)


@pytest.mark.parametrize("kept", [True, False])
def test_plot_of_nothing_but_kept_or_dropped(kept):
    import matplotlib.pyplot as plt

    ax = plot_mask(np.full((2, 3), kept))
    assert (cells(ax) == kept).all()
    plt.close(ax.figure)


def test_plot_spreads_a_mask_and_draws_on_the_axes_given():
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    mask = np.array([True, False]).reshape(2, 1, 1)
    names = ("clip", "frame", "joint")
    assert plot_mask(mask, ax=ax, shape=(2, 3, 4), axis_names=names) is ax
    np.testing.assert_array_equal(cells(ax), np.repeat([True, False], 12))
    assert "joint" in ax.get_xlabel()
    assert "frame" in ax.get_ylabel()
    plt.close(figure)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.ones(()), {}, "mask_or_output must have an axis and an element: got shape ()"),
        (
            np.ones((0, 3)),
            {},
            "mask_or_output must have an axis and an element: got shape (0, 3)",
        ),
        (
            np.ones((2, 1, 3)),
            {"shape": (2, 3)},
            "mask_or_output must have the same number of axes as x, each of x's size or 1: got "
            "mask_or_output.shape=(2, 1, 3) for shape=(2, 3)",
        ),
        (
            np.ones((2, 3)),
            {"axis_names": ("a",)},
            "axis_names needs one name per axis: got ('a',) for 2 axes",
        ),
    ],
)
def test_bad_plots(array, options, message):
    with pytest.raises(ValueError, match=exactly(message)):
        plot_mask(array, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abc",), "mask_or_output must be an array of bools or numbers: got 'abc'"),
        ((None,), "mask_or_output must be an array of bools or numbers: got None"),
        (
            ([[], [1]],),
            "mask_or_output must be an array of bools or numbers: got [[], [1]]",
        ),
        (
            (jax.random.key(0),),
            "mask_or_output must be an array of bools or numbers: got an array of shape () and "
            "dtype key<fry>",
        ),
        (
            (np.ones(2), {"ax": np.array([None, None])}),
            "ax must be one matplotlib Axes, or None for a new figure: got an array of shape (2,) "
            "and dtype object",
        ),
        ((np.ones(2), {"title": 3}), "title must be a string: got 3"),
        (
            (np.ones(2), {"axis_names": "x"}),
            "axis_names must be a tuple of one name per axis: got 'x'",
        ),
        ((np.ones(2), {"axis_names": (1,)}), "axis_names[0] must be a string: got 1"),
    ],
)
def test_plots_of_other_things(arguments, message):
    array, *options = arguments
    with pytest.raises(TypeError, match=exactly(message)):
        plot_mask(array, **(options[0] if options else {}))


def test_plots_inside_jit():
    with pytest.raises(TypeError, match=r"\Amask_or_output must not be traced: got a tr"):
        jax.jit(lambda x: plot_mask(x) and x)(np.ones(3))


def test_plots_of_lists_and_half_precision():
    import matplotlib.pyplot as plt

    for array in ([[1, 0], [0, 2]], jnp.array([[1, 0], [0, 2]], jnp.bfloat16)):
        ax = plot_mask(array)
        np.testing.assert_array_equal(cells(ax), [True, False, False, True])
        plt.close(ax.figure)


def test_without_matplotlib_it_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy, flax_spatialdrop\n"
        "try: flax_spatialdrop.plot_mask(numpy.ones(3))\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "plot_mask draws with matplotlib, which is not installed: "
        "pip install 'flax-spatialdrop[plot]'\n"
    )


def test_sizes_of_numpy_do_not_overflow():
    text = explain((np.int32(50000),) * 2, np.array([1, 50000]))
    assert "50000 independent coin flips, each for 50000 of the 2500000000 elements" in text


def test_symbolic_sizes_are_explained():
    batch, time = jax.export.symbolic_shape("b, t")
    assert explain((batch, time, 8), (None, 1, None)).splitlines() == [
        "x.shape (b, t, 8), noise_shape (b, 1, 8)",
        "axis 1 shares its draw; axes 0, 2 have draws of their own",
        "8*b independent coin flips, each for t of the 8*b*t elements",
        "zeros possible 0, t, 2*t, ..., 8*b*t, the multiples of t",
    ]
