import math

import numpy as np

from experiments.tagging.task import Tagging
from experiments.task import Split, batches


def test_batches_fill_up_with_examples_that_do_not_count():
    part = Split((np.ones((5, 3)), np.full(5, 3)), np.ones((5, 3)), np.ones((5, 3), bool))
    cut = batches(part, 2)
    assert [array.shape for array in cut.inputs] == [(3, 2, 3), (3, 2)]
    assert cut.inputs[1].tolist() == [[3, 3], [3, 3], [3, 0]]
    assert cut.counted.any(2).tolist() == [[True, True], [True, True], [True, False]]


def test_a_metric_writes_scores_in_its_unit():
    assert Tagging.metric.text(0.9051) == "90.5 %"
    assert Tagging.metric.text(math.nan) == Tagging.metric.text(math.inf) == "diverged"
    assert Tagging.metric.title == "Accuracy in %"


def test_the_plain_network_of_a_regularizer():
    assert [Tagging.plain(name) for name in ("none", "Dropout")] == ["none", "none"]
