"""A small config of composed digits."""

import pytest

from configs.localization import get_config


@pytest.fixture
def config():
    return get_config("smoke")
