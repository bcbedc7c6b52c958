import itertools
from functools import partial

import numpy as np
import pytest

from experiments.benchmarks import drop_in
from experiments.benchmarks.architectures import ResNet, TransformerLM
from experiments.benchmarks.libraries import FLAX, OURS

MODELS = {
    "text": (partial(TransformerLM, layers=1, features=32), drop_in.text_batches),
    "image": (partial(ResNet, stages=(8, 16)), drop_in.image_batches),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_training_with_ours_and_in_drop_in_has_flax_s_losses(name, monkeypatch):
    monkeypatch.setattr(drop_in, "STEPS", 3)
    model, batches = MODELS[name]
    records = {r.quantity: r for r in drop_in._train(name, model, batches())}
    for run in (OURS, drop_in.DROP_IN):
        assert records[drop_in.DIFFERENCE].values[run] <= 1e-5
        scratch = records["scratch memory in MiB"].values
        assert scratch[run] < scratch[FLAX]
    first, last = records["first loss"].values, records["last loss"].values
    assert first[FLAX] != last[FLAX]
    assert records["time of a step in ms"].values[OURS] > 0


def test_text_is_followed_by_the_next_byte():
    (inputs, labels) = next(drop_in.text_batches())
    np.testing.assert_array_equal(inputs[:, 1:], labels[:, :-1])
    assert len(np.unique(labels)) > 20


def test_images_show_their_label():
    for images, labels in itertools.islice(drop_in.image_batches(), 3):
        brightest = np.asarray(images)[:, :30:3].mean((2, 3)).argmax(1)
        assert (brightest == np.asarray(labels)).mean() > 0.9
