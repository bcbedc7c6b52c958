"""Files of images in the format of MNIST."""

import gzip

import numpy as np
import pytest


def idx(array):
    """Returns the bytes of an IDX file."""
    return np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes() + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A folder with 30 and 12 images of 8 x 8, whose class is their brightness."""
    for name, count in (("train", 30), ("t10k", 12)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.broadcast_to(25 * labels[:, None, None], (count, 8, 8)).astype(np.uint8)
        files = {"images-idx3": images, "labels-idx1": labels}
        for kind, array in files.items():
            path = tmp_path / f"{name}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx(array)))
    return tmp_path
