import jax
import pytest

from experiments.benchmarks import pytorch
from experiments.benchmarks.libraries import ELEMENT_WISE, SPATIAL

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("direction", ["forward", "pullback"])
@pytest.mark.parametrize("shape", [(4, 5, 50), (4, 5, 6, 50)])
def test_whole_channels_in_pytorch_s_own_layout(shape, direction):
    found = pytorch.programs(SPATIAL, "float32", shape, direction)
    y = found[pytorch.PYTORCH]()
    y = y[0] if direction == "pullback" else y
    assert y.shape == (shape[0], shape[-1], *shape[1:-1])
    per_channel = y.reshape(shape[0], shape[-1], -1)
    assert (per_channel == per_channel[..., :1]).all()
    assert 0 < (per_channel == 0).float().mean() < 0.3
    assert found[pytorch.PYTORCH_COPY]().shape == y.shape


def test_single_elements_in_bfloat16():
    y = pytorch.programs(ELEMENT_WISE, "bfloat16", (4, 5, 50), "forward")[pytorch.PYTORCH]()
    assert y.dtype == torch.bfloat16
    assert 0 < (y == 0).float().mean() < 0.3


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_nothing_on_a_device_that_pytorch_lacks(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pytorch.programs(ELEMENT_WISE, "float32", (4, 5), "forward") == {}


@pytest.mark.parametrize("direction", ["forward", "pullback"])
def test_a_gpu_s_work_is_waited_for(direction, monkeypatch):
    waits = []
    monkeypatch.setattr(pytorch, "device", lambda: "meta")  # a device that computes nothing
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(None))
    found = pytorch.programs(ELEMENT_WISE, "float32", (4, 5), direction)
    for number, call in enumerate(found.values()):
        assert len(waits) == number
        jax.block_until_ready(call())
    assert len(waits) == len(found)
