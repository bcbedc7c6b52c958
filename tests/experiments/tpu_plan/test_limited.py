import operator
import os
import time

import pytest

from experiments.errors import InputError
from experiments.tpu_plan.limited import Limits, run_limited

ENOUGH = Limits(20, 60)


def test_a_result_comes_back():
    assert run_limited(operator.add, (1, 2), ENOUGH) == 3


@pytest.mark.parametrize(
    ("work", "argument", "limits", "sentence"),
    [
        (bytearray, 10**11, ENOUGH, "it needs more than --memory_limit=20 gigabytes"),
        (time.sleep, 60, Limits(20, 0.1), "it took longer than --time_limit=0.1 seconds"),
        (os._exit, 3, ENOUGH, "the process died with the exit code 3"),
    ],
)
def test_the_death_of_a_process_is_one_sentence(work, argument, limits, sentence):
    with pytest.raises(InputError) as error:
        run_limited(work, (argument,), limits)
    assert str(error.value) == sentence


def test_an_abort_of_a_compiler_is_a_lack_of_memory():
    with pytest.raises(InputError, match="it needs more than --memory_limit=20 gigabytes"):
        run_limited(os.abort, (), ENOUGH)
