import os

import pytest

from experiments.errors import InputError
from experiments.installed import user_file


def test_a_file_at_home_is_found(tmp_path, monkeypatch):
    (tmp_path / "a.csv").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_file("~/a.csv", "weather") == tmp_path / "a.csv"


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_file_is_not_read(tmp_path, kind):
    """Reading a FIFO that nobody writes to would block forever."""
    path = "/dev/zero" if kind == "device" else tmp_path / "a"
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "folder":
        path.mkdir()
    with pytest.raises(InputError) as caught:
        user_file(path, "weather")
    assert str(caught.value) == f"cannot read the weather {path}: it is not a file"


def test_a_path_that_no_file_can_have():
    with pytest.raises(InputError, match=r"^cannot read the weather a.*: .*embedded null .*$"):
        user_file("a\0", "weather")
