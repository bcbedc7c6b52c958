"""Draws a picture of what each regularizer drops, for the pages of docs/.

python -m experiments.drawing.pictures

Each picture is an SVG file in docs/_static/masks. The masks are those of the library, from fixed
keys. The colors can be read on a light and on a dark page.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from xml.sax.saxutils import escape

import jax
import jax.numpy as jnp
import numpy as np

import flax_spatialdrop as fsd
import flax_spatialdrop.nnx

FOLDER = Path(__file__).parents[2] / "docs" / "_static" / "masks"
WORDS = ("pad", "<s>", "</s>", "[mask]", "the", "cat", "saw", "a", "dog", "ran")
NUM_SPECIAL = 3  # the first words are never replaced

KEPT, DROPPED, TEXT = (158, 201, 226), (77, 83, 92), "#7a828c"
CELL, LINE, MARGIN = 18, 16, 14  # the height of a cell and of a line, the space between two grids


class Grid(NamedTuple):
    """Cells in rows and columns."""

    kept: np.ndarray
    """1 where a value is kept, 0 where it is dropped; a number between them mixes both colors."""
    title: str = ""
    texts: Sequence[Sequence[str]] | None = None
    row_names: Sequence[str] = ()


class Picture(NamedTuple):
    """Rows of grids, the names of their axes, and what both colors mean."""

    rows: list[list[Grid]]
    down: str
    right: str
    kept: str = "kept"
    dropped: str = "dropped"
    row_names: Sequence[str] = ()
    width: int = CELL  # of a cell


def _sequences(kept: Any, down: str = "time", right: str = "channel") -> Picture:
    """One grid per sample of [sample, time, channel]."""
    grids = [Grid(np.asarray(grid), f"sample {i}") for i, grid in enumerate(kept)]
    return Picture([grids], down, right)


def _maps(kept: Any, name: str, down: str, right: str) -> Picture:
    """One grid per sample and channel of [sample, channel, height, width]."""
    rows = [[Grid(np.asarray(grid)) for grid in row] for row in kept]
    rows[0] = [grid._replace(title=f"{name} {i}") for i, grid in enumerate(rows[0])]
    names = [f"sample {i}" for i in range(len(rows))]
    return Picture(rows, down, right, row_names=names)


def _of_sequences(function: Callable[..., jax.Array], seed: int) -> Picture:
    return _sequences(function(jax.random.key(seed), jnp.ones((2, 4, 6)), 0.5) != 0)


def _of_images(
    function: Callable[..., jax.Array],
    seed: int,
    shape: tuple[int, ...] = (2, 4, 4, 4),
    rate: float = 0.5,
    **options: Any,
) -> Picture:
    y = function(jax.random.key(seed), jnp.ones(shape), rate, **options)
    return _maps(jnp.moveaxis(y != 0, -1, 1), "channel", "height", "width")


def _of_volumes(seed: int) -> Picture:
    y = fsd.spatial_dropout_3d(jax.random.key(seed), jnp.ones((1, 3, 4, 4, 4)), 0.5)
    picture = _maps(jnp.moveaxis(y[0] != 0, -1, 1), "channel", "height", "width")
    return picture._replace(row_names=["frame 0", "frame 1", "frame 2"])


def _of_selu(function: Callable[..., jax.Array], seed: int) -> Picture:
    y = function(jax.random.key(seed), jnp.ones((2, 4, 6)), 0.5)
    picture = _sequences(y == y.max())
    return picture._replace(dropped="set to the limit of a SELU")


def _gaussian(seed: int) -> Picture:
    noise = np.asarray(fsd.gaussian_dropout(jax.random.key(seed), jnp.ones((2, 4, 4)), 0.2))
    grids = [
        Grid(np.clip(grid - 0.5, 0, 1), f"sample {i}", [[f"{n:.1f}" for n in row] for row in grid])
        for i, grid in enumerate(noise)
    ]
    words = "times 1.5 or more", "times 0.5 or less"
    return Picture([grids], "time", "channel", *words, width=30)


def _embedding_noise(seed: int) -> Picture:
    lengths = np.array([4, 2])
    x = jnp.zeros((2, 4, 4))
    noise = np.asarray(fsd.embedding_noise(jax.random.key(seed), x, 5.0, lengths=lengths))
    grids = [
        Grid(
            np.clip(grid / 2 + 0.5, 0, 1),
            f"length {length}",
            [[f"{n:.1f}" if t < length else "" for n in row] for t, row in enumerate(grid)],
        )
        for grid, length in zip(noise, lengths, strict=True)
    ]
    return Picture([grids], "time", "feature", "plus 1 or more", "minus 1 or less", width=30)


def _spectrograms(seed: int) -> Picture:
    lengths = np.array([10, 6])
    options: dict[str, int] = {"max_time_width": 3, "max_freq_width": 4}
    ones = jnp.ones((2, 10, 12))
    y = fsd.spec_augment(jax.random.key(seed), ones, lengths=lengths, num_freq_masks=1, **options)
    titles = [f"{length} frames" for length in lengths]
    return _side_by_side(y != 0, titles, "time", "frequency")._replace(dropped="hidden")


def _heads(seed: int) -> Picture:
    y = fsd.head_dropout(jax.random.key(seed), jnp.ones((2, 4, 4, 4)), 0.5)
    return _maps(jnp.moveaxis(y != 0, 2, 1), "head", "time", "feature")


def _paths(seed: int) -> Picture:
    modes: tuple[Literal["row", "batch"], ...] = "row", "batch"
    keys = jax.random.split(jax.random.key(seed))
    kept = [
        fsd.drop_path(key, jnp.ones((4, 6)), 0.5, mode=mode) != 0
        for key, mode in zip(keys, modes, strict=True)
    ]
    titles = [f'mode="{mode}"' for mode in modes]
    return _side_by_side(kept, titles, "sample", "feature")


def _residual_paths(seed: int) -> Picture:
    modes: tuple[Literal["row", "batch", "subset"], ...] = "row", "batch", "subset"
    rates = fsd.linear_rates(0.5, 8)
    keys = jax.random.split(jax.random.key(seed), (len(modes), len(rates)))
    kept = [
        [
            fsd.residual_drop_path(key, jnp.zeros(4), jnp.ones_like, rate, mode=mode) != 0
            for key, rate in zip(row, rates, strict=True)
        ]
        for row, mode in zip(keys, modes, strict=True)
    ]
    titles = [f'mode="{mode}"' for mode in modes]
    return _side_by_side([np.stack(k, 1) for k in kept], titles, "sample", "block")


def _tokens(seed: int) -> Picture:
    ids = np.array([[1, 4, 5, 6, 7, 8, 2], [1, 7, 8, 9, 2, 0, 0]])
    mask_id = WORDS.index("[mask]")
    special = range(NUM_SPECIAL)
    y = fsd.token_dropout(jax.random.key(seed), ids, 0.4, mask_id=mask_id, special_ids=special)
    grid = Grid(np.asarray(y == ids), texts=[[WORDS[i] for i in row] for row in y])
    return Picture([[grid]], "sample", "token", dropped="replaced", width=50)


def _embeddings(seed: int) -> Picture:
    vocabulary = WORDS[NUM_SPECIAL + 1 :]
    sentence = "the", "cat", "saw", "the", "dog"
    ids = jnp.array([vocabulary.index(word) for word in sentence])
    table = jnp.ones((len(vocabulary), 5))
    kept = [
        fsd.embedding_dropout(jax.random.key(seed), table, 0.5, ids=ids) != 0 for ids in (None, ids)
    ]
    titles = "the table", "a sentence"
    grids = [
        Grid(np.asarray(k), title, row_names=names)
        for k, title, names in zip(kept, titles, (vocabulary, sentence), strict=True)
    ]
    return Picture([grids], "", "feature")


def _patches(seed: int) -> Picture:
    _, indices = fsd.patch_dropout(jax.random.key(seed), jnp.ones((2, 26, 1)), 0.5)
    kept = [np.isin(np.arange(25), row).reshape(5, 5) for row in np.asarray(indices)]
    return _sequences(kept, "height", "width")._replace(dropped="removed")


def _conditions(seed: int) -> Picture:
    batch = 8
    condition = {name: jnp.ones(batch, jnp.int32) for name in ("label", "text")}
    rows = []
    for key, joint in zip(jax.random.split(jax.random.key(seed)), (True, False), strict=True):
        y = fsd.condition_dropout(key, condition, 0.4, null=0, joint=joint)
        rows.append([Grid(np.stack([*y.values()]), f"joint={joint}", row_names=[*y])])
    return Picture(rows, "", "sample", dropped="null")


def _modalities(seed: int) -> Picture:
    inputs = {name: jnp.ones(12) for name in ("audio", "image", "text")}
    _, presence = fsd.modality_dropout(jax.random.key(seed), inputs, 0.5)
    grid = Grid(np.stack([*presence.values()]), row_names=[*presence])
    return Picture([[grid]], "", "sample")


def _attention(seed: int) -> Picture:
    options: dict[str, dict[str, Any]] = {
        "one draw per weight": {"broadcast_dropout": False},
        "broadcast_dims=(-2,)": {"broadcast_dims": (-2,)},
        "span=3": {"broadcast_dropout": False, "span": 3},
    }
    size = 8
    zeros = jnp.zeros((1, size, 1, 1))
    value = jnp.eye(size)[None, :, None]  # then the output is the weights
    keys = jax.random.split(jax.random.key(seed), len(options))
    weights = [
        fsd.nnx.dot_product_attention(
            zeros, zeros, value, dropout_rng=key, dropout_rate=0.3, **option
        )
        for key, option in zip(keys, options.values(), strict=True)
    ]
    return _side_by_side([w[0, :, 0] != 0 for w in weights], [*options], "query", "key")


def _blocks_of_attention(seed: int) -> Picture:
    size, block = 8, 4
    zeros = jnp.zeros((1, size, 1, 1))
    value = jnp.eye(size)[None, :, None]
    weights = fsd.nnx.blockwise_attention(
        zeros,
        zeros,
        value,
        dropout_rng=jax.random.key(seed),
        dropout_rate=0.3,
        broadcast_dropout=False,
        query_block_size=block,
        key_block_size=block,
    )
    kept = np.asarray(weights[0, :, 0] != 0)
    parts = [f"{start} to {start + block - 1}" for start in range(0, size, block)]
    rows = [[Grid(part) for part in np.split(row, 2, axis=1)] for row in np.split(kept, 2)]
    rows[0] = [grid._replace(title=part) for grid, part in zip(rows[0], parts, strict=True)]
    return Picture(rows, "query", "key", row_names=parts)


def _weights(seed: int) -> Picture:
    weights = {"kernel": jnp.ones((5, 8)), "bias": jnp.ones((1, 8))}
    y = fsd.drop_connect(jax.random.key(seed), weights, 0.5, paths="kernel")
    rows = [[Grid(np.asarray(y[name] != 0), name)] for name in weights]
    return Picture(rows, "input", "output")


def _recurrent_masks(seed: int) -> Picture:
    keys = jax.random.split(jax.random.key(seed))
    masks = [fsd.recurrent_masks(key, 0.5, 2, features=6) for key in keys]
    kept = np.broadcast_to(np.stack(masks, 1)[:, :, None], (2, 2, 4, 6))
    picture = _maps(kept, "", "time", "feature")
    titles = "inputs", "state"
    top = [grid._replace(title=t) for grid, t in zip(picture.rows[0], titles, strict=True)]
    return picture._replace(rows=[top, picture.rows[1]])


def _recurrent_dropout(seed: int) -> Picture:
    keys = jax.random.split(jax.random.key(seed), 4)
    kept = [fsd.recurrent_dropout(key, jnp.ones((2, 6)), 0.4) != 0 for key in keys]
    return _sequences(np.stack(kept, 1), right="hidden value of the candidate")


def _zoneout(seed: int) -> Picture:
    keys, ones = jax.random.split(jax.random.key(seed), 4), jnp.ones((2, 6))
    kept = [fsd.zoneout(key, ones, 0.4, previous=0 * ones) for key in keys]
    picture = _sequences(np.stack(kept, 1), right="hidden value")
    return picture._replace(kept="new value", dropped="value of the step before")


def _side_by_side(kept: Any, titles: Sequence[str], down: str, right: str) -> Picture:
    grids = [Grid(np.asarray(k), title) for k, title in zip(kept, titles, strict=True)]
    return Picture([grids], down, right)


PICTURES: dict[str, Callable[[], Picture]] = {
    "alpha_dropout": lambda: _of_selu(fsd.alpha_dropout, 0),
    "blockwise_attention": lambda: _blocks_of_attention(0),
    "condition_dropout": lambda: _conditions(0),
    "cutout": lambda: _of_images(fsd.cutout, 1, (2, 8, 8, 3), rate=1.0, block_size=4),
    "dot_product_attention": lambda: _attention(1),
    "drop_block": lambda: _of_images(
        fsd.drop_block, 0, (2, 8, 8, 3), rate=0.3, block_size=3, normalize=None
    ),
    "drop_connect": lambda: _weights(0),
    "drop_path": lambda: _paths(7),
    "dropout": lambda: _of_sequences(fsd.dropout, 0),
    "embedding_dropout": lambda: _embeddings(0),
    "embedding_noise": lambda: _embedding_noise(0),
    "feature_alpha_dropout": lambda: _of_selu(fsd.feature_alpha_dropout, 0),
    "feature_dropout": lambda: _of_sequences(fsd.feature_dropout, 0),
    "gaussian_dropout": lambda: _gaussian(0),
    "head_dropout": lambda: _heads(0),
    "modality_dropout": lambda: _modalities(0),
    "patch_dropout": lambda: _patches(0),
    "recurrent_dropout": lambda: _recurrent_dropout(0),
    "recurrent_masks": lambda: _recurrent_masks(0),
    "residual_drop_path": lambda: _residual_paths(5),
    "sample_dropout": lambda: _of_sequences(fsd.sample_dropout, 1),
    "spatial_dropout": lambda: _of_images(fsd.spatial_dropout, 5),
    "spatial_dropout_1d": lambda: _of_sequences(fsd.spatial_dropout_1d, 0),
    "spatial_dropout_2d": lambda: _of_images(fsd.spatial_dropout_2d, 0),
    "spatial_dropout_3d": lambda: _of_volumes(5),
    "spec_augment": lambda: _spectrograms(10),
    "timestep_dropout": lambda: _of_sequences(fsd.timestep_dropout, 0),
    "token_dropout": lambda: _tokens(0),
    "zoneout": lambda: _zoneout(0),
}


def to_svg(picture: Picture) -> str:
    """Returns the text of an SVG file."""
    left = (LINE if picture.down else 0) + (60 if picture.row_names else 0)
    parts: list[str] = []
    y, wide = 0, 0
    for i, row in enumerate(picture.rows):
        titled = any(grid.title for grid in row)
        y += LINE + 4 if titled else 0
        x, height = left, 0
        for grid in row:
            x += 48 if grid.row_names else 0
            cells = _cells(grid, x, y, picture.width)
            rows, columns = grid.kept.shape
            width = columns * picture.width
            if grid.title:
                parts.append(_text(grid.title, x + width / 2, y - 6))
            parts += cells
            height = max(height, rows * CELL)
            x += width + MARGIN
        if picture.row_names:
            parts.append(_text(picture.row_names[i], left - 8, y + height / 2 + 4, "end"))
        wide = max(wide, x - MARGIN)
        y += height + MARGIN
    middle = y / 2
    y += LINE - 6
    if picture.down:
        turn = f"rotate(-90 {LINE - 5} {middle:g})"
        parts.append(_text(f"← {picture.down}", LINE - 5, middle, transform=turn))
    parts.append(_text(f"{picture.right} →", (left + wide) / 2, y))
    y += LINE + 8
    x = left
    for color, words in ((KEPT, picture.kept), (DROPPED, picture.dropped)):
        parts += [_cell(x, y - 11, 14, 14, color), _text(words, x + 20, y, "start")]
        x += 20 + 7 * len(words) + MARGIN
    wide = max(wide, x)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:g}" height="{y + 8:g}" '
    head += f'viewBox="0 0 {wide:g} {y + 8:g}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _cells(grid: Grid, left: float, top: float, width: int) -> list[str]:
    parts = []
    for i, j in np.ndindex(grid.kept.shape):
        share = float(grid.kept[i, j])
        x, y = left + j * width, top + i * CELL
        mixed = [round(share * k + (1 - share) * d) for k, d in zip(KEPT, DROPPED, strict=True)]
        parts.append(_cell(x + 1, y + 1, width - 2, CELL - 2, mixed))
        if grid.texts is not None:
            color = "#14202b" if share > 0.5 else "#f2f4f6"
            parts.append(_text(grid.texts[i][j], x + width / 2, y + 13, fill=color))
    for i, name in enumerate(grid.row_names):
        parts.append(_text(name, left - 6, top + i * CELL + 13, "end"))
    return parts


def _cell(x: float, y: float, width: int, height: int, color: Sequence[int]) -> str:
    shape = f'x="{x:g}" y="{y:g}" width="{width}" height="{height}" rx="2"'
    return f'<rect {shape} fill="#{bytes(color).hex()}"/>'


def _text(words: str, x: float, y: float, anchor: str = "middle", **attributes: str) -> str:
    attributes = {"fill": TEXT, **attributes}
    more = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def save_pictures(folder: Path) -> None:
    """Writes a file for each regularizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURES.items():
        (folder / f"{name}.svg").write_text(to_svg(picture()))


if __name__ == "__main__":
    save_pictures(FOLDER)
