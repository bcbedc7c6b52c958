import json

import numpy as np
import pytest

from experiments.correlation import __main__ as correlation
from experiments.correlation import measurements, report, sources
from experiments.correlation.prediction import Maps
from experiments.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def run(workdir, *fields):
    given = [f"--config.{field}" for field in fields]
    return correlation.main(
        ["correlation", "--config=configs/correlation.py:smoke", *given, f"--workdir={workdir}"]
    )


PHOTOS = ("sources=('photo',)", "seeds=1", "maps=20", "places=200", "photo_step=4")
SHOWN = "shown=photo, every 4th pixel"


def test_a_run_saves_results_and_sets_earlier_ones_aside(tmp_path, capsys):
    for _ in range(2):
        assert run(tmp_path, *PHOTOS, SHOWN) == 0
    files = ["results.json", "results.md", "results.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["earlier-1", *files]
    assert sorted(path.name for path in (tmp_path / "earlier-1").iterdir()) == files
    out = capsys.readouterr().out
    assert "photo, every 4th pixel, seed 0: correlation 0.9" in out
    results = json.loads((tmp_path / files[0]).read_text())
    assert list(results["places"]) == ["photo", "photo, every 4th pixel"]
    assert np.shape(results["shown"]["DropBlock"]["given back"]) == (28, 28)
    first, again = ((tmp_path / folder / files[1]).read_text() for folder in (".", "earlier-1"))
    tables = [[line for line in text.splitlines() if "|" in line] for text in (first, again)]
    assert tables[0] == tables[1]
    assert len(tables[0]) == (2 + 2) + (2 + 3 * 2)  # without a network, no table of noise


BAD = [
    ("rate=0.0", "config.rate and config.rates must be inside of (0, 1): got 0.0"),
    ("rates=(1.5,)", "config.rate and config.rates must be inside of (0, 1): got 1.5"),
    ("rates=()", "config.rates must be a tuple of at least one: got ()"),
    ("seeds=0", "config.seeds must be at least 1: got 0"),
    ("gradient_masks=1", "config.gradient_masks must be at least 2: got 1"),
    (
        "sources=('sound',)",
        "each of config.sources must be one of photo, images, weather, words: got 'sound'",
    ),
    (
        "photo_step=12",
        "a tile must fit into a half of a photo, so (config.photo_size - 1) * config.photo_step "
        "must be less than 320: got 28 and 12",
    ),
    ("words.epochs=0", "config.words.epochs must be at least 1: got 0"),
    (
        "photo_size=4",
        "maps must have at least 5 rows and 5 columns, or a column alone: got 4 and 4",
    ),
]


@pytest.mark.parametrize(("field", "message"), BAD)
def test_bad_input_is_one_sentence(field, message, tmp_path, capsys):
    assert run(tmp_path, *PHOTOS, field) == 1
    out, err = capsys.readouterr()
    assert err == f"error: {message}\n"
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_masks_that_drop_nothing(tmp_path, capsys):
    assert run(tmp_path, *PHOTOS, "rates=(0.000001,)", "masks=1") == 1
    assert capsys.readouterr().err == (
        "error: config.masks must be larger: none of 1 masks of Dropout drops a value at a rate "
        "of 1e-06\n"
    )


def test_words_need_sentences():
    with pytest.raises(InputError) as error:
        sources.segments(np.zeros((1, 20, 3)), sources.Split((None, np.array([7])), None, None))
    assert str(error.value) == "config.words needs sentences of at least 8 words"


def test_help(capsys):
    assert correlation.main(["correlation", "--help"]) == 0
    assert "--config=configs/correlation.py" in capsys.readouterr().out


def seed(given_back, noise):
    forms = ("Dropout", "DropBlock", "SpatialDropout")
    return {
        "correlation": 0.5,
        "neighbors": {"Dropout": 0.75, "DropBlock": 0.5},
        "given back": {f: {"0.5": g} for f, g in zip(forms, given_back, strict=True)},
        "noise": dict(zip(forms, noise, strict=True)),
        "test score": 0.9,
    }


def test_the_report_has_effective_rates_and_paired_differences():
    config = {"name": "example", "seeds": 2, "rate": 0.5, "rates": [0.5], "block_size": 3}
    seeds = [seed((0.8, 0.4, 0.0), (1, 2, 4)), seed((0.6, 0.4, 0.2), (2, 3, 12))]
    results = {
        "config": config | {"gradient_masks": 8},
        "date": "2030-01-01",
        "device": "cpu",
        "versions": {"jax": "1.2.3"},
        "places": {"block 1": seeds},
    }
    lines = report.markdown(results).splitlines()
    assert "| block 1 | 0.500 ± 0.000 | 0.750 ± 0.000 | 0.500 ± 0.000 |" in lines
    # t(.975, 1) = 12.706; the standard error of (.1, .2) is .05
    assert (
        "| block 1 | 0.5 | 0.150 ± 0.635 | 0.300 ± 0.000 | 0.450 ± 0.635 | 0.300 ± 1.271 |" in lines
    )
    assert lines[-1] == (
        "| block 1 | 0.900 ± 0.000 | 1.500 ± 6.353 | 2.500 ± 6.353 | 8.000 ± 50.825 | "
        "5.000 ± 12.706 |"
    )


def test_shares_of_independent_values_are_zero():
    config = correlation.settings.read(
        ["", "--config=configs/correlation.py:smoke"], correlation.flags.FlagValues()
    )
    noise = np.random.default_rng(0).normal(size=(2, 200, 9, 9, 2))
    config.update({"places": 20_000, "dropped": 100})
    found = measurements.place(config, Maps(noise[0], noise[1]), 0)
    shares = [*found["neighbors"].values()]
    shares += [share for rates in found["given back"].values() for share in rates.values()]
    assert np.abs(shares).max() < 0.02
    assert abs(found["correlation"]) < 0.02


@pytest.mark.slow
def test_a_small_study_of_networks_from_end_to_end(tmp_path):
    """Trains a ResNet on digits and a tagger on the real sentences."""
    small = ("seeds=1", "rates=(0.5,)", "sources=('images','words')", "words.hidden=4")
    small += ("words.data.train_sentences=40", "words.data.test_sentences=40")
    assert run(tmp_path, *small) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["places"]) == ["pixels", "block 1", "word vectors"]
    for place, seeds in results["places"].items():
        assert len(seeds) == 1
        if place != "pixels":
            assert 0 < seeds[0]["test score"] < 1
            assert min(seeds[0]["noise"].values()) > 0
    assert results["places"]["pixels"][0]["noise"] is None
    assert list(results["shown"]) == ["map", "Dropout", "DropBlock", "SpatialDropout"]
    assert "| word vectors | 0." in (tmp_path / "results.md").read_text()
