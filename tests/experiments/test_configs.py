import importlib
import json
import re
from pathlib import Path

import pytest

from configs import (
    image_classification,
    language_model,
    localization,
    pos_tagging,
    rate_schedules,
    sensors,
    weather_forecast,
    word_language_model,
)
from experiments import report, settings, study
from experiments.errors import InputError
from experiments.tasks import TASKS

ROOT = Path(__file__).parents[2]
TABLES = {  # the words before the table in a config's header, and the row above the regularizers
    "pos_tagging": (pos_tagging, "Part-of-speech", "most frequent tag"),
    "pos_tagging-seq2seq": (pos_tagging, "`:seq2seq`", "most frequent tag"),
    "weather_forecast": (weather_forecast, "Weather", "persistence"),
    "language_model": (language_model, "A language model", "5-gram"),
    "word_language_model": (word_language_model, "A language model", "3-gram"),
    "word_language_model-transformer": (word_language_model, "`:transformer`", "3-gram"),
    "sensors": (sensors, "Sensors", "linear classifier"),
}


def regularizers(name):
    """Returns the regularizers of a config, by the name of its results."""
    _, *variant = name.split("-")
    return TABLES[name][0].get_config(*variant).regularizers


def header_rows(name):
    """Returns the table in the header of a config that follows these words."""
    module, opening, baseline = TABLES[name]
    text = module.__doc__.split(opening)[1]
    names = "|".join([baseline, *regularizers(name)])
    rows = {}
    for line in text.splitlines():
        match = re.match(rf"    ({names})  ", line.replace(" at ", "  at "))
        if match and match[1] not in rows:
            rows[match[1]] = line
    return rows


def report_rows(name):
    lines = (ROOT / "experiments" / "results" / name / "results.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows if len(row) == 6}


@pytest.mark.parametrize("name", TABLES)
def test_the_header_quotes_the_table_of_results(name):
    quoted, reported = header_rows(name), report_rows(name)
    _, _, baseline = TABLES[name]
    assert quoted.keys() == {baseline, *regularizers(name)}
    for regularizer, line in quoted.items():
        rate, _, test, difference, _ = reported[regularizer]
        numbers = [number.replace("+-", "±") for number in re.findall(r"\S+ \+- \S+", line)]
        assert numbers == [cell for cell in (test, difference) if "±" in cell]
        assert re.findall(r" at (\S+)", line) == ([rate] if rate else [])
    assert reported[baseline][2] in quoted[baseline]


STUDIES = {
    "localization": localization,
    "image_classification": image_classification,
    "rate_schedules": rate_schedules,
    "rate_schedules-images": rate_schedules,
}


@pytest.mark.parametrize("name", STUDIES)
def test_the_header_of_a_study_quotes_its_differences(name):
    """A row has a regularizer and its difference in each condition, or "-" where it was not run."""
    results = json.loads((ROOT / "experiments/results" / name / "results.json").read_text())
    lines = [" ".join(line.split()) for line in STUDIES[name].__doc__.splitlines()]
    for row in study.differences(results)[0].rows:
        cells = [cell.replace("±", "+-") or "-" for cell in row]
        assert lines.count(" ".join(cells)) == 1, cells


CONFIGS = [
    importlib.import_module(f"configs.{path.stem}")
    for path in sorted((ROOT / "configs").glob("*.py"))
]
TRAINED = [config for config in CONFIGS if config.get_config().get("task") in TASKS]


def name_of(module):
    return module.__name__.removeprefix("configs.")


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize("config", TRAINED, ids=name_of)
def test_every_variant_passes_its_own_checks(config):
    for variant in config.VARIANTS:
        settings.parse(["main", f"--config=configs/{name_of(config)}.py:{variant}"])


@pytest.mark.parametrize("config", TRAINED, ids=name_of)
def test_early_stopping_has_room_or_is_off(config):
    for variant in {*config.VARIANTS} - {"smoke"}:
        found = config.get_config(variant)
        assert found.patience == found.epochs or 2 * found.patience < found.epochs, variant


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_another_variant_gets_one_sentence(config):
    with pytest.raises(InputError) as caught:
        config.get_config("other")
    *names, last = config.VARIANTS
    assert str(caught.value) == (
        f"the variant of {name_of(config)} must be {', '.join(names)} or {last}: got 'other'"
    )


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_the_name_of_a_smoke_variant_says_so(config):
    """The report of its run looks at the name."""
    for variant in config.VARIANTS:
        results = {"config": config.get_config(variant)}
        assert report.is_smoke(results) == (variant == "smoke")


@pytest.mark.parametrize("config", TRAINED, ids=name_of)
def test_all_can_be_resumed(config):
    """The book says to try --resume on the smoke variant, whose runs have few steps."""
    assert config.get_config().checkpoint_every > 0
    assert 0 < config.get_config("smoke").checkpoint_every <= 50
