"""A small file of a treebank, and a config for it."""

import contextlib
import resource

import jax
import pytest

from configs.pos_tagging import get_config
from experiments.forecasting.task import Forecasting
from experiments.tagging.task import Tagging

WORDS = {"DET": "a o", "NOUN": "casa rua mesa", "VERB": "vê abre", "PUNCT": "."}
PATTERN = ("DET", "NOUN", "VERB", "DET", "NOUN", "PUNCT")


@pytest.fixture(autouse=True, scope="module")
def _standard_promotion():
    # optax.adam computes float ** int32, which strict promotion does not allow.
    with jax.numpy_dtype_promotion("standard"):
        yield


@contextlib.contextmanager
def largest_file(size):
    """Makes writes fail that make a file larger, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def conllu(words, sent_id=None, comments=()):
    """Returns a sentence in CoNLL-U, for words given as (form, tag)."""
    lines = [*comments, *([f"# sent_id = {sent_id}"] if sent_id else [])]
    for number, (form, tag) in enumerate(words, start=1):
        lines.append("\t".join([str(number), form, "_", tag, *"______"]))
    return "\n".join(lines) + "\n\n"


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory):
    """Writes 60 different sentences, alternately of 7 and 8 words, in 20 documents."""
    text = ""
    for index in range(60):
        words = []
        for place, tag in enumerate(PATTERN):
            forms = WORDS[tag].split()
            words.append((forms[(index * 7 + index // 3 + place) % len(forms)], tag))
        name = f"nome{chr(97 + index % 26)}{index // 26 * 'x'}"
        words += [(name, "NOUN"), ("casa", "NOUN")][: 1 + index % 2]
        text += conllu(words, f"D{index // 3}_SENT{index % 3}")
    path = tmp_path_factory.mktemp("corpus") / "corpus.conllu"
    path.write_text(text)
    return path


def make_config(corpus_path):
    """Returns the smoke config, made smaller, for the corpus in a file."""
    config = get_config("smoke")
    config.update({"features": 8, "hidden": 8, "batch_size": 8})
    config.update({"seeds": 2, "rates": (0.1, 0.5), "epochs": 3})
    config.mesh.runs = 1  # on one device
    config.data.update({"path": str(corpus_path), "train_sentences": 0, "test_sentences": 0})
    return config


@pytest.fixture
def config(corpus_path):
    return make_config(corpus_path)


@pytest.fixture
def errors(results):
    """The same results for a task whose score is an error, so lower is better."""
    results["metric"] = Forecasting.metric._asdict()
    return results


def diverge(results, name):
    """Makes all runs of a regularizer diverge."""
    result = results["regularizers"][name]
    result["chosen_rate"] = None
    for run in result["runs"]:
        run.update(diverged=True, validation_score=None, test_score=None)
        run.update(validation_curve=[None, None], train_loss=[1.0, None])


@pytest.fixture
def results():
    """Fake results of two regularizers; a third is missing."""

    def runs(rate, validation, tests):
        return [
            {
                "rate": rate,
                "seed": seed,
                "epochs": 2 + seed,
                "best_epoch": 2,
                "diverged": False,
                "validation_score": validation,
                "validation_curve": [0.5, validation, validation - 0.1][: 2 + seed],
                "train_loss": [1.0, 0.5, 0.4][: 2 + seed],
                "test_score": test,
                "measures": {},
            }
            for seed, test in enumerate(tests)
        ]

    def regularizer(compared_to, rate, runs):
        cost = {"compile_seconds": 1.25, "seconds_per_step": 0.0031}
        result = {"compared_to": compared_to, "chosen_rate": rate, "seconds": 3.2}
        return {**result, "runs": runs, **cost}

    return {
        "config": {
            "name": "example",
            "rates": [0.1, 0.5, 0.7],
            "seeds": 2,
            "epochs": 3,
            "patience": 2,
        },
        "date": "2030-01-01",
        "device": "cpu",
        "versions": {"jax": "1.2.3"},
        "description": "ten sentences.",
        "data": {},
        "metric": Tagging.metric._asdict(),
        "measures": {},
        "baseline_test_score": 0.75,
        "regularizers": {
            "none": regularizer(None, 0.0, runs(0.0, 0.8, [0.80, 0.82])),
            "Dropout": regularizer(
                "none", 0.5, runs(0.5, 0.9, [0.84, 0.87]) + runs(0.1, 0.7, [None, None])
            ),
        },
        "missing": ["SpatialDropout1D"],
        "unfinished": [],
    }
