"""The pages on experiments and benchmarks include and quote the output of the commands."""

import json
import pathlib
import re
import statistics

import numpy as np
import pytest

from configs import correlation as correlation_config
from configs import mc_calibration, sensors
from experiments.benchmarks.results import Results
from experiments.correlation import report as correlation
from experiments.statistics import estimate, rows
from experiments.tpu_plan import table
from experiments.tpu_plan.results import Plan

ROOT = pathlib.Path(__file__).parent.parent.parent
RESULTS = ROOT / "experiments/results"
DOCS = ROOT / "docs"
EXPERIMENTS = "\n".join(page.read_text() for page in sorted((DOCS / "experiments").glob("*.md")))
BENCHMARKS = (DOCS / "benchmarks.md").read_text()
FAQ = (DOCS / "faq.md").read_text()
_INCLUDE = re.compile(r"^```\{include\} (\S+)\n(.*?)^```$", re.M | re.S)
_SHOWN = re.compile(r"^````.*?^````$", re.M | re.S)  # an include that is only shown
_OPTION = re.compile(r'^:([\w-]+): "(.*)"$', re.M)
_TABLE = re.compile(r"(?:^\|.*\n)+", re.M)


def includes(page):
    """Returns the file and the options of every include of a page, as they are written."""
    return _INCLUDE.findall(_SHOWN.sub("", page.read_text()))


def included(page):
    """Yields the file and the text of every include of a page, cut as MyST does."""
    for target, options in includes(page):
        path = (page.parent / target).resolve()
        text, options = path.read_text(), dict(_OPTION.findall(options))
        if "start-after" in options:
            text = text[text.index(options["start-after"]) + len(options["start-after"]) :]
        if "end-before" in options:
            text = text[: text.index(options["end-before"])]
        yield path, text


SOURCES = [page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts]
PAGES = [page for page in SOURCES if includes(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_includes_is_there(page):
    for path, text in included(page):
        assert path.is_relative_to(ROOT)
        assert text.strip()


def test_parts_of_reports_are_one_table_each():
    for path, text in included(DOCS / "benchmarks.md"):
        if "Where a table begins" not in text:
            assert len(_TABLE.findall(text)) == 1, f"{path.name}: {text[:40]}"
            assert "\n## " not in text


def test_every_report_is_on_a_page():
    whole = {path for page in PAGES for path, text in included(page)}
    assert {*RESULTS.rglob("*.md")} <= whole


def test_no_table_of_results_is_copied():
    """Tables are included from the reports, since a copy would become outdated."""
    rows = set()
    for report in RESULTS.rglob("*.md"):
        rows |= {line for line in report.read_text().splitlines() if line.startswith("|")}
    header = {row for row in rows if not re.search(r"\d", row)}
    for page in SOURCES:
        assert (rows - header).isdisjoint(page.read_text().splitlines()), page.name


_ROW = re.compile(
    r"^\| \[.+\?\]\((\S+)\) \| (.+) \| \[(\w+)\]\((\S+)\)(?:`:(\w+)`)? \| "
    r"\[figure\]\((\S+)\) \|$"
)
OVERVIEW = ROOT / "experiments/README.md"


def test_the_overview_has_every_experiment():
    """A row has the question and its page, the answer, the config with its variant, the figure."""
    lines = [line for line in OVERVIEW.read_text().splitlines() if line.startswith("| [")]
    with_results, pages, configs = set(), set(), set()
    for line in lines:
        row = _ROW.match(line)
        assert row, line
        page, _, config, path, variant, figure = row.groups()
        pages.add((OVERVIEW.parent / page.partition("#")[0]).resolve())
        assert path == f"../configs/{config}.py"
        configs.add(config)
        folder = (OVERVIEW.parent / figure).resolve().parent
        assert folder == RESULTS / (f"{config}-{variant}" if variant else config)
        assert (folder / pathlib.Path(figure).name).is_file(), figure
        with_results.add(folder.name)
    assert with_results == {path.parent.name for path in RESULTS.glob("*/results.md")}
    how_to = {DOCS / "experiments/running.md", DOCS / "experiments/writing.md"}
    assert pages == {*(DOCS / "experiments").glob("*.md")} - how_to
    planned = {"decoder", "resnet50"}  # without data, for experiments.tpu_plan
    assert configs == {path.stem for path in (ROOT / "configs").glob("*.py")} - planned


def test_numbers_of_the_overview():
    """Tests of the experiments have the other answers."""
    (gain,) = {
        f"{100 * difference(results('pos_tagging'), n):.2f}"
        for n in ("Dropout", "SpatialDropout1D")
    }
    overview = OVERVIEW.read_text()
    assert f"both gain {gain} points of accuracy" in overview
    loss = -100 * difference(results("pos_tagging-seq2seq"), "RecurrentDropout")
    assert f"Recurrent dropout loses {loss:.2f} points" in overview


def results(name):
    return json.loads((RESULTS / name / "results.json").read_text())["regularizers"]


def scores(runs):
    return [run["test_score"] for run in runs if run["test_score"] is not None]


def chosen(result):
    return [run for run in result["runs"] if run["rate"] == result["chosen_rate"]]


def difference(found, name, to="none"):
    return statistics.mean(scores(found[name]["runs"])) - statistics.mean(scores(found[to]["runs"]))


def difference_at_chosen(found, name, to="none"):
    return statistics.mean(scores(chosen(found[name]))) - statistics.mean(scores(chosen(found[to])))


def says(page, sentence):
    """Whether a page contains a sentence, with any line breaks."""
    return sentence in " ".join(page.split())


def test_numbers_of_the_taggers():
    found = results("pos_tagging")
    gains = {f"{100 * difference(found, name):+.2f}" for name in ("Dropout", "SpatialDropout1D")}
    (gain,) = gains
    assert says(EXPERIMENTS, f"spatial dropout both gain {gain} points")
    assert says(FAQ, f"both gain {gain[1:]} points of accuracy")
    loss = -100 * difference(results("pos_tagging-seq2seq"), "RecurrentDropout")
    assert says(EXPERIMENTS, f"Recurrent dropout makes it worse by {loss:.2f} points")


def test_numbers_of_the_words():
    found = results("word_language_model-transformer")
    gain = -difference_at_chosen(found, "all")
    assert says(EXPERIMENTS, f"All places together lower the perplexity by {gain:.2f} words")
    plain, together = (
        {run["seed"]: run["test_score"] for run in chosen(found[name])} for name in ("none", "all")
    )
    assert all(together[seed] < plain[seed] for seed in plain)  # "each of the five seeds gains"
    best = statistics.mean(run["best_epoch"] for run in chosen(found["none"]))
    assert says(EXPERIMENTS, f"a run validates best after {best:.0f} epochs on average")


def test_numbers_of_the_lstm_of_words():
    whole = json.loads((RESULTS / "word_language_model/results.json").read_text())
    gains = {name: minus(of) for name, of in differences(whole).items()}
    assert shown(whole) == {"element-wise", "inputs", "weights"}
    element_wise, inputs, weights = (
        words(gains[name]) for name in ("element-wise", "inputs", "weights")
    )
    assert says(EXPERIMENTS, f'"element-wise" by {element_wise} words, "inputs" by {inputs} and')
    assert says(EXPERIMENTS, f'"weights" by {weights}.')
    for of in (element_wise, inputs, weights):
        assert f" {of.split()[0]}" in OVERVIEW.read_text()
    worse = over(*(score_of_each(whole, name) for name in ("variational", "element-wise")))
    assert says(EXPERIMENTS, f"dropout is {words(worse)} words worse than element-wise dropout")
    passes = {row.name: row.test for row in rows(whole, "measures", "monte_carlo_gain")}
    assert says(EXPERIMENTS, f"makes it worse, by {words(passes['variational'])} words")
    single = [words(minus(passes[name])) for name in ("weights", "inputs", "states")]
    sentence = '"weights" by {} words, "inputs" by {} and "states" by {}'
    assert says(EXPERIMENTS, sentence.format(*single))


def test_numbers_of_the_forecast():
    whole = json.loads((RESULTS / "weather_forecast/results.json").read_text())
    found = whole["regularizers"]
    gains = [
        whole["baseline_test_score"] - statistics.mean(scores(row["runs"]))
        for row in found.values()
    ]
    assert says(EXPERIMENTS, f"persistence, by {min(gains):.1f} to {max(gains):.1f} °F")
    pairs = zip(*(scores(found[n]["runs"]) for n in ("CNN channels", "CNN none")), strict=True)
    better = [ours < none for ours, none in pairs]
    assert says(EXPERIMENTS, f"error is smaller for {sum(better)} seeds of {len(better)}")
    rates = whole["config"]["rates"]
    assert found["recurrent mask"]["chosen_rate"] == max(rates)
    assert found["after"]["chosen_rate"] == min(rates)


def test_numbers_of_the_language_model():
    found = results("language_model")
    none, others = found.pop("none"), found
    before = statistics.mean(run["best_epoch"] for run in none["runs"])
    after = [run["best_epoch"] for row in others.values() for run in chosen(row)]
    assert says(EXPERIMENTS, f"best after {before:.0f} epochs on average, and with dropout at the")
    assert says(EXPERIMENTS, f"chosen rates after {statistics.mean(after):.0f}.")
    config = json.loads((RESULTS / "language_model/results.json").read_text())["config"]
    high = [run for row in others.values() for run in row["runs"] if run["rate"] == 0.5]
    cap = config["epochs"]
    capped = [run["epochs"] == cap and cap - run["best_epoch"] < config["patience"] for run in high]
    sentence = (
        f"At a rate of 0.5, {sum(capped)} of {len(high)} runs reached the cap of {cap} epochs"
    )
    assert says(EXPERIMENTS, sentence)
    characters = json.loads((RESULTS / "language_model/results.json").read_text())["data"]["train"]
    assert says(FAQ, f"which sees {characters['characters'] / 1000:.0f} kB of text")
    for row in others.values():
        pairs = zip(scores(row["runs"]), scores(none["runs"]), strict=True)
        assert all(ours < theirs for ours, theirs in pairs)  # "Every form helps in every seed"


def measured(result, name):
    """Returns the mean of a measure over the seeds of the chosen rate."""
    return statistics.mean(run["measures"][name] for run in chosen(result))


def calibration_row(name, result):
    """Returns the line of a regularizer in the header of configs/mc_calibration.py."""
    cells = []
    for quantity, scale, digits in (("NLL", 1, 3), ("ECE", 100, 1)):
        for images in ("clean", "shifted"):
            ways = [
                f"{scale * measured(result, f'{quantity}, {images}, {way}'):.{digits}f}"
                for way in ("one pass", "passes")
            ]
            cells.append(" -> ".join(ways) if result["compared_to"] else ways[0])
    label = f"{name} at {result['chosen_rate']:g}" if result["compared_to"] else name
    return f"    {label:<24}" + "".join(f"{cell:<16}" for cell in cells).rstrip()


def test_the_header_of_the_calibration_has_its_results():
    lines = mc_calibration.__doc__.splitlines()
    for name, result in results("mc_calibration").items():
        assert calibration_row(name, result) in lines


def test_numbers_of_the_calibration():
    found = results("mc_calibration")
    none = found["none"]
    clean, shifted = (100 * measured(none, f"ECE, {on}, one pass") for on in ("clean", "shifted"))
    assert says(EXPERIMENTS, f"its ECE grows from {clean:.1f} to {shifted:.1f} %")
    for name in ("Dropout", "SpatialDropout2D"):
        for images in ("clean", "shifted"):
            plain, one, passes = (
                f"{measured(result, f'NLL, {images}, {way}'):.3f}"
                for result, way in (
                    *((none, "one pass"), (found[name], "one pass"), (found[name], "passes")),
                )
            )
            assert says(EXPERIMENTS, f"from {plain} to {one} in one pass and {passes} in passes")
    for name, result in found.items():
        for images in ("clean", "shifted"):
            areas = [measured(result, f"area, {images}, {way}") for way in ("one pass", "passes")]
            assert abs(np.diff(areas)) < 0.003
        for way in ("one pass", "passes"):
            before, after = (measured(result, f"ECE, {on}, {way}") for on in ("clean", "shifted"))
            assert before < after
        for images in ("clean", "shifted") if name != "none" else ():
            for run, plain in zip(chosen(result), chosen(none), strict=True):
                one, passes = (
                    run["measures"][f"NLL, {images}, {way}"] for way in ("one pass", "passes")
                )
                assert passes < one < plain["measures"][f"NLL, {images}, one pass"]
    assert found["Dropout"]["chosen_rate"] == 0.1
    assert found["SpatialDropout2D"]["chosen_rate"] == 0.3
    accuracy = "accuracy, shifted, one pass"
    at_chosen, at_same = (
        percent(
            over(
                *(
                    {
                        run["seed"]: run["measures"][accuracy]
                        for run in found[name]["runs"]
                        if run["rate"] == (rate or found[name]["chosen_rate"])
                    }
                    for name in ("SpatialDropout2D", "Dropout")
                )
            ),
            2,
        )
        for rate in (None, 0.3)
    )
    assert says(EXPERIMENTS, f'better than "Dropout" by {at_chosen} points of accuracy')
    assert says(EXPERIMENTS, f"at 0.3 for both it is better by {at_same} points")
    assert says((DOCS / "which_dropout.md").read_text(), f"better, by {at_chosen} points of")
    at_same_rate = {**found["Dropout"], "chosen_rate": 0.3}
    ours, theirs = (
        [f"{100 * measured(of, f'ECE, {on}, passes'):.1f}" for on in ("clean", "shifted")]
        for of in (at_same_rate, found["SpatialDropout2D"])
    )
    sentence = "have an ECE of {} % on clean and {} % on shifted images, against {} and {} %"
    assert says(EXPERIMENTS, sentence.format(*ours, *theirs))
    ranges = []
    for way in ("one pass", "passes"):
        errors = [
            100 * measured(of, f"ECE, clean, {way}") for n, of in found.items() if n != "none"
        ]
        ranges.append(f"{min(errors):.1f} to {max(errors):.1f} %")
    assert says(EXPERIMENTS, f"falls to {ranges[0]} in one pass, and to {ranges[1]} in passes")
    answer = f"from {clean:.1f} % to {ranges[0]} by training with dropout, and to {ranges[1]} with"
    assert answer in OVERVIEW.read_text()


def of_sensors(field):
    """Returns the rows of a table in the report of the sensors, by regularizer."""
    whole = json.loads((RESULTS / "sensors/results.json").read_text())
    return {row.name: row for row in rows(whole, *field)}


WHOLE = ("test_score",)
FAILED = [
    ("measures", name)
    for name in ("the accelerometer failed", "the gyroscope failed", "a second lost")
]


def percent(found, digits=1):
    return f"{100 * found.mean:.{digits}f} ± {100 * found.half_width:.{digits}f}"


def test_the_header_of_the_sensors_has_the_means_with_a_failure():
    lines = sensors.__doc__.splitlines()
    tables = [of_sensors(field) for field in FAILED]
    for name in tables[0]:
        means = "  ".join(f"{100 * table[name].test.mean:.1f}" for table in tables)
        assert sum(line.startswith(f"    {name} ") and line.endswith(means) for line in lines) == 1


def test_numbers_of_the_sensors():
    overview, ours = OVERVIEW.read_text(), "ModalityDropout"
    for field in FAILED[:2]:
        table, sensor = of_sensors(field), field[1].removesuffix(" failed")
        none, modality = table["none"].test, table[ours].test
        gain = percent(table[ours].difference, 2)
        sentence = f"from {percent(none)} to {percent(modality)} %, by {gain} points"
        assert says(EXPERIMENTS, f"With {field[1]}, accuracy grows {sentence}")
        grows = f"from {100 * none.mean:.1f} to {100 * modality.mean:.1f} % if {sensor} fails"
        assert grows in overview
    whole = of_sensors(WHOLE)
    assert says(EXPERIMENTS, f"the difference is +{percent(whole[ours].difference, 2)} points")
    with_all, without = (100 * of_sensors(field)[ours].test.mean for field in (WHOLE, FAILED[0]))
    assert says(EXPERIMENTS, f"falls from {with_all:.1f} to {without:.1f} % without the accel")


def test_claims_on_the_sensors():
    shown = {
        (field[-1], row.name)
        for field in (WHOLE, *FAILED)
        for row in of_sensors(field).values()
        if row.difference and abs(row.difference.mean) > row.difference.half_width
    }
    accelerometer, gyroscope = (field[1] for field in FAILED[:2])
    more = (accelerometer, "TimestepDropout")
    assert shown == {more, *((failed, "ModalityDropout") for failed in (accelerometer, gyroscope))}
    gain = of_sensors(FAILED[0])["TimestepDropout"].difference
    assert says(EXPERIMENTS, f'"TimestepDropout" gains {percent(gain, 2)} points with the accel')
    found = results("sensors")
    for failed in (accelerometer, gyroscope):
        ours, none = (chosen(found[name]) for name in ("ModalityDropout", "none"))
        for run, plain in zip(ours, none, strict=True):  # "for each of the ten people"
            assert run["measures"][failed] > plain["measures"][failed]
    runs = found["ModalityDropout"]["runs"]
    for _, failed in FAILED:  # "highest at the chosen rate of 0.2"
        means = {
            rate: statistics.mean(run["measures"][failed] for run in runs if run["rate"] == rate)
            for rate in (0.1, 0.2, 0.4)
        }
        assert max(means, key=means.get) == found["ModalityDropout"]["chosen_rate"] == 0.2


def test_the_linear_classifier_is_not_worse_than_the_networks():
    baseline = json.loads((RESULTS / "sensors/results.json").read_text())["baseline_test_score"]
    assert says(EXPERIMENTS, f"The linear classifier has {100 * baseline:.1f} % when nothing")
    assert all(row.test.mean < baseline for row in of_sensors(WHOLE).values())
    report = (RESULTS / "sensors/results.md").read_text()
    interval = re.search(r"^- none: .+ \((.+), (95 % interval .+)\)\.$", report, re.M)
    assert says(EXPERIMENTS, f'"none" differs by {interval[1]} ({interval[2]})')


def conditions(name):
    return json.loads((RESULTS / name / "results.json").read_text())["conditions"]


def differences(found):
    """Returns the difference of each regularizer to none at its chosen rate, by name."""
    return {row.name: row.difference for row in rows(found) if row.difference}


def shown(found):
    """Returns the names of the regularizers whose difference has an interval without 0."""
    return {name for name, of in differences(found).items() if abs(of.mean) > of.half_width}


def score_of_each(found, name, rate=None):
    """Returns the test score of each seed, at a rate or at the chosen one."""
    result = found["regularizers"][name]
    rate = result["chosen_rate"] if rate is None else rate
    return {run["seed"]: run["test_score"] for run in result["runs"] if run["rate"] == rate}


def over(ours, theirs):
    """Returns the difference of two scores of each seed."""
    return estimate([ours[seed] - theirs[seed] for seed in ours])


def minus(found):
    return found._replace(mean=-found.mean)


def test_numbers_of_the_images():
    few, grouped, more = (
        conditions("image_classification")[name]
        for name in ("1,000 images", "1,000 images, group norm", "4,000 images")
    )
    assert len(differences(few)) == 10
    assert len(shown(few)) == 7  # "Seven of the ten gain"
    assert shown(grouped) == set()
    assert shown(more) == {"Dropout", "DropBlock"}
    gains = differences(few)
    assert max(gains, key=lambda name: gains[name].mean) == "cutout"
    least, most = (
        f"{100 * choose(gains[n].mean for n in shown(few)):.2f}" for choose in (min, max)
    )
    assert says(EXPERIMENTS, f"in an interval without 0, by {least} to {most} points.")
    assert f"seven of ten gain, by {least} to {most} points" in OVERVIEW.read_text()
    assert says(EXPERIMENTS, f"the highest mean, {percent(gains['cutout'], 2)} points")
    assert len(differences(more)) == 8
    assert "on 4,000 two of eight" in OVERVIEW.read_text()
    dropout, blocks = (percent(differences(more)[name], 2) for name in ("Dropout", "DropBlock"))
    assert says(EXPERIMENTS, f"gain in this way, by {dropout} and {blocks} points")
    names = ("Dropout", "SpatialDropout2D", "DropBlock", "DropBlock growing")
    forms = [100 * gains[name].mean for name in names]
    assert says(EXPERIMENTS, f"gain {min(forms):.2f} to {max(forms):.2f} points on 1,000")
    between = over(*(score_of_each(few, name) for name in ("SpatialDropout2D", "Dropout")))
    assert says(EXPERIMENTS, f'differs from "Dropout" by {percent(between, 2)} points')
    assert not any(name in shown(few) for name in gains if name.startswith("DropPath"))


def test_numbers_of_dropout_and_norms():
    found = conditions("image_classification")
    norms = [found["1,000 images"], found["1,000 images, group norm"]]
    overview = OVERVIEW.read_text()
    lost = over(score_of_each(norms[0], "none"), score_of_each(norms[0], f"Dropout {BEFORE}", 0.5))
    assert says(EXPERIMENTS, f"the batch norm loses {percent(lost, 2)} points against none")
    assert says(FAQ, f"it lost {100 * lost.mean:.2f} points at a rate of 0.5")
    gained = differences(norms[0])[f"Dropout {BEFORE}"]
    assert norms[0]["regularizers"][f"Dropout {BEFORE}"]["chosen_rate"] == 0.1
    assert gained.mean > gained.half_width  # "still gains"
    assert says(FAQ, f"gained {100 * gained.mean:.2f} at a rate of 0.1")
    for name, rate in (("Dropout", 0.5), ("SpatialDropout2D", 0.3)):
        gaps = []
        for of in norms:
            after, before = (score_of_each(of, n, rate) for n in (name, f"{name} {BEFORE}"))
            gaps.append({seed: after[seed] - before[seed] for seed in after})
        batch, group = (estimate([*gap.values()]) for gap in gaps)
        apart = over(*gaps)
        assert apart.mean > apart.half_width
        if name == "Dropout":
            assert says(EXPERIMENTS, f"It is {percent(batch, 2)} points worse than dropout after")
            assert says(EXPERIMENTS, f"it is {percent(group, 2)} points worse than after it")
            assert says(EXPERIMENTS, f"The two gaps differ by {percent(apart, 2)} points")
            both = f"by {100 * batch.mean:.2f} points with batch norm and {100 * group.mean:.2f}"
            assert both in overview
        else:
            assert says(EXPERIMENTS, f"is {percent(batch, 2)} points worse before the batch norm")
            assert says(EXPERIMENTS, f"{percent(group, 2)} before the group norm")
            assert says(EXPERIMENTS, f"The gaps differ by {percent(apart, 2)} points")


BEFORE = "before norm"


def test_rows_of_other_pages_are_the_same_runs():
    """Two pages say that they share trainings with that of image classification."""
    images = conditions("image_classification")
    calibrated = json.loads((RESULTS / "mc_calibration/results.json").read_text())
    scheduled = conditions("rate_schedules-images")["many epochs"]
    grouped = images["1,000 images, group norm"]
    pairs = [
        (calibrated, images["1,000 images"], {n: n for n in ("none", "Dropout", "DropBlock")}),
        (scheduled, grouped, {"none": "none", "constant": "SpatialDropout2D"}),
    ]
    for ours, theirs, names in pairs:
        for name, other in names.items():
            assert score_of_each(ours, name) == score_of_each(theirs, other)


def test_numbers_of_the_schedules():
    once, often = (conditions("rate_schedules")[epochs] for epochs in EPOCHS)
    lost = differences(once)
    assert shown(once) == {"constant", "early", "late", "growing"}
    assert all(of.mean > 0 for of in lost.values())  # "Each schedule is worse than none"
    constant, early = (words(lost[name]) for name in ("constant", "early"))
    assert says(EXPERIMENTS, f"constant dropout by {constant} words of perplexity, and even early")
    assert says(EXPERIMENTS, f"even early dropout by {early}.")
    assert shown(often) == {"late", "growing"}
    late, growing = (words(minus(differences(often)[name])) for name in ("late", "growing"))
    assert says(EXPERIMENTS, f'"late" gains {late} and "growing" {growing} words of perplexity')
    assert f"late dropout lowers the perplexity by {late.split()[0]} words" in OVERVIEW.read_text()
    better = over(*(score_of_each(often, name) for name in ("constant", "late")))
    assert says(EXPERIMENTS, f'better than "constant" by {words(better)} words')
    same = over(*(score_of_each(often, name) for name in ("growing", "late")))
    assert abs(same.mean) < same.half_width
    for of in (once, often):
        assert all(row.test.mean > of["baseline_test_score"] for row in rows(of))
    plain = results("word_language_model-transformer")["none"]
    sibling = statistics.mean(scores(chosen(plain)))
    assert all(row.test.mean > sibling for row in rows(often))  # "better even without dropout"


def test_numbers_of_the_schedules_on_images():
    found = conditions("rate_schedules-images")
    once, often = (found[epochs] for epochs in EPOCHS)
    assert shown(once) == {"constant", "late", "growing"}  # 'all but "early" lose'
    lost = differences(once)
    assert all(of.mean < 0 for of in lost.values())
    assert f"dropout loses {-100 * lost['constant'].mean:.2f} points of accuracy" in (
        OVERVIEW.read_text()
    )
    assert shown(often) == set()
    gains = differences(often)
    assert max(gains, key=lambda name: gains[name].mean) == "late"
    for of in (*found.values(), *conditions("rate_schedules").values()):
        assert {row.rate for row in rows(of) if row.compared_to} == {0.1}


EPOCHS = ("single epoch", "many epochs")


def words(found):
    return f"{found.mean:.2f} ± {found.half_width:.2f}"


def test_numbers_of_localization():
    found = conditions("localization")
    few, most = found["50 scenes"], found["1,000 scenes"]
    gains = differences(few)
    spatial = gains["SpatialDropout2D"]
    assert max(gains, key=lambda name: gains[name].mean) == "SpatialDropout2D"
    assert says(EXPERIMENTS, f"the highest mean, {100 * spatial.mean:.2f} points over none, with")
    assert says(EXPERIMENTS, f"an interval of ± {100 * spatial.half_width:.2f}")
    for of in found.values():
        gained = differences(of)
        assert not any(gained[name].mean > 0 for name in shown(of))  # "does not show at any size"
        both = over(*(score_of_each(of, name) for name in ("SpatialDropout2D", "Dropout")))
        assert abs(both.mean) < both.half_width
    for scenes in ("300 scenes", "1,000 scenes"):
        assert differences(found[scenes])["SpatialDropout2D"].mean < 0
    trends = {}
    for name in ("SpatialDropout2D", "Dropout"):
        on_few, on_most = (
            {s: score_of_each(of, name)[s] - score_of_each(of, "none")[s] for s in range(5)}
            for of in (few, most)
        )
        trends[name] = over(on_few, on_most)
        assert trends[name].mean > trends[name].half_width
    assert says(EXPERIMENTS, f"is {percent(trends['SpatialDropout2D'], 2)} points higher on 50")
    assert says(EXPERIMENTS, f'"Dropout" is {percent(trends["Dropout"], 2)} points higher too')
    lost, growing = (minus(differences(most)[n]) for n in ("DropBlock", "DropBlock growing"))
    assert says(EXPERIMENTS, f"loses {percent(lost, 2)} points on 1,000 scenes")
    assert says(EXPERIMENTS, f"a growing rate loses less, {percent(growing, 2)}")
    better = [
        differences(of)["DropBlock growing"].mean - differences(of)["DropBlock"].mean
        for of in found.values()
    ]
    assert sum(by > 0.005 for by in better) == 3
    assert min(better) > 0


def test_numbers_of_correlation():
    found = json.loads((RESULTS / "correlation/results.json").read_text())

    def given(place):
        return f"{100 * correlation.neighbors(found, place, 'Dropout').mean:.0f} %"

    def removed(place, form, rate):
        return f"{correlation.effective_rate(found, place, form, rate).mean:.2f}"

    which, readme = ((ROOT / page).read_text() for page in ("docs/which_dropout.md", "README.md"))
    forms = ("Dropout", "SpatialDropout")
    single, whole = (removed("block 1", form, "0.5") for form in forms)
    words = [removed("word vectors", form, "0.5") for form in forms]
    for page in (EXPERIMENTS, which):
        assert says(page, f"Neighbors give back {given('photo')} of a dropped pixel of a photo")
        assert says(page, f"{given('block 1')} of a value in block 1")
        assert says(page, f"and {given('word vectors')} of a value of a word vector.")
        assert says(page, f"rate of 0.5 removes as much as a rate of {single} would of independent")
        assert says(page, f"SpatialDropout removes as much as a rate of {whole}.")
        assert says(page, f"both remove the same: {words[0]} and {words[1]}.")
    high = [removed("block 1", form, "0.9") for form in forms]
    assert says(EXPERIMENTS, f"At a rate of 0.9, the two remove {high[0]} and {high[1]}.")
    answer = f"{given('block 1')} in the first block of a ResNet. Dropout at a rate of 0.5 removes "
    answer += f"as much as {single} would of independent values, and of whole channels {whole}."
    assert answer in OVERVIEW.read_text()
    assert f"neighbors give back {given('block 1')} of a dropped value" in readme
    plain = f"Plain dropout at 0.5 removes as much as {single} would of independent values"
    assert f"{plain}, and spatial dropout {whole}." in readme


def test_claims_on_correlation():
    found = json.loads((RESULTS / "correlation/results.json").read_text())
    more = correlation.more_removed(found, "block 1", "0.5")
    assert more.mean > more.half_width  # "Whole channels remove more"
    same = correlation.more_removed(found, "word vectors", "0.5")
    assert abs(same.mean) < same.half_width
    for place, is_between in (("block 1", True), ("block 2", False), ("block 3", False)):
        single, blocks, whole = (
            correlation.effective_rate(found, place, form, "0.9").mean
            for form in ("Dropout", "DropBlock", "SpatialDropout")
        )
        assert single < blocks
        assert (blocks < whole) == is_between
    first, second, last = (
        correlation.noise_ratio(found, f"block {number}") for number in (1, 2, 3)
    )
    assert says(EXPERIMENTS, f"whole channels add {last.mean:.1f} times the noise")
    assert last.mean - last.half_width > 1
    assert all(abs(ratio.mean - 1) < ratio.half_width for ratio in (first, second))
    of_words = correlation.noise_ratio(found, "word vectors")
    assert says(
        EXPERIMENTS, f"For word vectors it is {of_words.mean:.2f}, with an interval above 1"
    )
    assert of_words.mean - of_words.half_width > 1


def test_the_header_of_correlation_has_its_results():
    found = json.loads((RESULTS / "correlation/results.json").read_text())
    for place in ("photo", "block 1", "word vectors"):
        given = correlation.neighbors(found, place, "Dropout").mean
        rates = [
            f"{correlation.effective_rate(found, place, form, '0.5').mean:.3f}"
            for form in ("Dropout", "SpatialDropout")
        ]
        row = f"{place} {given:.3f} {' '.join(rates)}"
        assert row in [" ".join(line.split()) for line in correlation_config.__doc__.splitlines()]


def test_numbers_of_what_papers_predicted():
    images = conditions("image_classification")["1,000 images"]
    once, often = (conditions("rate_schedules")[epochs] for epochs in EPOCHS)
    accelerometer = of_sensors(FAILED[0])["ModalityDropout"].difference
    before, after = (score_of_each(images, n, 0.5) for n in (f"Dropout {BEFORE}", "Dropout"))
    page = (DOCS / "experiments.md").read_text()
    for number in (
        f"+{percent(accelerometer, 2)} points of accuracy without the accelerometer",
        f"costs {words(differences(once)['constant'])} words of perplexity",
        f"by {words(minus(differences(often)['late']))} of perplexity",
        f"{percent(over(after, before), 2)} points worse than after it",
        f"by {percent(differences(images)['cutout'], 2)} points",
        f"by {percent(differences(images)['DropBlock'], 2)} points",
    ):
        assert number in page, number


CPU = {record.id: record for record in Results.load(RESULTS / "benchmarks/cpu.json").records}


def test_numbers_of_the_benchmarks():
    memory = [
        CPU["attention", f"f32[2, {n}, 8, 64] gradient", "scratch memory in MiB"].values
        for n in (1024, 8192)
    ]
    ours, flax = ([value[name] for value in memory] for name in ("in blocks", "Flax"))
    sentence = (
        f"it grows from {ours[0]:.3g} to {ours[1]:.3g} MiB, and that of Flax from {flax[0]:.3g}"
    )
    assert says(BENCHMARKS, f"{sentence} to {flax[1]:,.0f} MiB")
    record = CPU["layers", "spatial f32[32, 64, 64, 128] forward", "time in ms"]
    kept = CPU["layers", "spatial f32[32, 64, 64, 128] forward", "time in ms, pages kept"]
    assert round(record.values["copy"] / kept.values["copy"]) == 4  # "about four times faster"
    losses = [record for id, record in CPU.items() if id[2].startswith("largest difference")]
    assert losses
    assert all(value == 0 for record in losses for value in record.values.values())


def record_of(chip, *id):
    """Returns the record of a section, a row and a quantity in the report of a TPU."""
    records = Results.load(RESULTS / f"benchmarks/tpu-{chip}-4x4.json").records
    (record,) = [record for record in records if record.id == id]
    return record


def ratios(chip, section, row, *names):
    """Returns cycles of the schedule over those of the baseline, as in the table of a report."""
    record = record_of(chip, section, row, "cycles (schedule)")
    return [f"{record.values[name] / record.values[record.baseline]:.2f}" for name in names]


def test_numbers_of_the_tpus():
    names = ("flax_spatialdrop", "with fast_key", "with fast_key, kernel", "Flax")
    row = "element-wise bf16[32, 64, 64, 128] forward"
    default, fused, kernel, flax = (
        " and ".join(found)
        for found in zip(
            *(ratios(chip, "layers", row, *names) for chip in ("v5e", "v6e")), strict=True
        )
    )
    v5e, v6e = default.split(" and ")
    masks = (DOCS / "api/masks.md").read_text()
    for page in (BENCHMARKS, masks):
        assert says(page, f"takes {v5e} times the cycles of a copy on TPU v5e, and {v6e} on v6e.")
        assert says(page, f"With a `fast_key` it takes {kernel} in the")
        assert says(page, f"and {fused} where XLA's own operations draw the mask.")
    assert says(BENCHMARKS, f"Flax's layer takes {flax}.")
    spatial = "spatial bf16[32, 64, 64, 128] forward"
    assert ratios("v5e", "layers", spatial, "flax_spatialdrop") == ["1.00"]  # "waits for memory"


def test_numbers_of_the_chain_on_tpus():
    chain = "networks", "chain of 12, element-wise"
    names = "with fast_key, kernel", "with fast_key"
    kernel, fused = ratios("v5e", *chain, *names)
    sentence = f"takes {kernel} times the cycles of no dropout in the kernel, and {fused} times"
    assert says(BENCHMARKS, f"With a fast key, the chain {sentence} with XLA's own operations.")
    memory = record_of("v5e", *chain, "scratch memory in KiB a chip").values
    kernel, fused = (f"{memory[name] / 1024:.0f} MiB" for name in names)
    assert says(BENCHMARKS, f"needs {kernel} of scratch memory, in place of {fused}.")


def test_numbers_of_the_kernel_of_attention():
    keys = ("kernel, with fast_key", "kernel, with default key")
    row = "bf16[1, 4096, 8, 128] gradient"
    (fast_v5e, v5e), (fast_v6e, v6e) = (
        ratios(chip, "attention kernel", row, *keys) for chip in ("v5e", "v6e")
    )
    fast = (
        f"takes {fast_v5e} times the cycles of no dropout on TPU v5e, and {fast_v6e} times on v6e"
    )
    assert says(BENCHMARKS, f"With a fast key it {fast}.")
    assert says(BENCHMARKS, f"With a default key it takes {v5e} and {v6e} times.")
    assert min(float(v5e), float(v6e)) > 2  # "takes most of the cycles", in the guide


SLICES = ("v5p:2x2x4", "v5p:4x8x8", "v5p:8x16x16")
POD = (DOCS / "guides/tpu_pod.md").read_text()


@pytest.fixture(scope="module")
def planned():
    """Returns what each row of the plans adds, by config, topology and name."""
    plans = [Plan.load(path) for path in (RESULTS / "tpu_plan").glob("*.json")]
    rows = [(plan, row) for plan in plans for row in plan.rows]
    assert not any(row.failure for _, row in rows)
    found = {(row.config, row.topology, row.arm): table.added(plan, row) for plan, row in rows}
    return {name: cost for name, cost in found.items() if cost is not None}


def test_what_dropout_adds_does_not_grow(planned):
    steps = {}
    for path in (RESULTS / "tpu_plan").glob("*.json"):
        for row in Plan.load(path).rows:
            steps[row.config, row.arm, row.topology] = row.scheduled, row.peak
    for config, arm in (
        ("pos_tagging", "SpatialDropout1D"),
        ("language_model", "weights"),
        ("weather_forecast", "both"),
    ):
        cycles, memory = zip(*(steps[config, "none", size] for size in SLICES), strict=True)
        assert max(cycles) < 1.01 * min(cycles)
        assert len(set(memory)) == 1
        (cost,) = {planned[config, size, arm] for size in SLICES}
        assert cost.millions
        assert cost.collectives == "+0"


def test_numbers_of_the_planned_decoder(planned):
    """The guide names each row that has a schedule."""
    cost = {name[2]: cost for name, cost in planned.items() if name[:2] == ("decoder", "v5e:16x16")}
    for length in ("2k", "8k"):
        cost[length] = planned.get((f"decoder-{length}", "v5e:16x16", "all"))
    sentences = {
        "all": "On TPU v5e, its dropout adds {} of the cycles of a step, and {} MiB.",
        "attention": "Dropout of attention weights alone adds {}.",
        "residual": "Residual dropout adds {}.",
        "embedding": "Embedding dropout adds {}.",
        "all with fast_key": (
            "With a [`fast_key`](../api/masks.md#fast_key), all its dropout adds {}."
        ),
        "Flax all": "Flax's attention and layers add {} to the step with Flax's attention.",
        "2k": "With sequences of 2,048 tokens, dropout adds {}.",
        "8k": "With sequences of 8,192 tokens, dropout adds {}.",
    }
    for name, sentence in sentences.items():
        if (found := cost.get(name)) is not None and found.share:
            assert says(POD, sentence.format(found.share[1:], found.memory[1:]))
        else:
            assert not says(POD, sentence.partition("{}")[0])
    costs = [planned["decoder", size, "all"] for size in SLICES]
    by, add = "", [cost.millions[1:] for cost in costs]
    if not all(add):
        by, add = ", by the estimate,", [cost.estimated_millions[1:] for cost in costs]
    few, some, many = add
    sentence = f"On TPU v5p{by} it adds {few} million cycles on 16 chips, {some} on 256 and {many}"
    assert says(POD, f"{sentence} on 2,048")


def test_numbers_of_the_planned_resnet(planned):
    cost, flax = (planned["resnet50", "v5e:16x16", name] for name in ("both", "Flax both"))
    assert cost.collectives == "+0"
    sentence = f"together add {cost.estimated_share[1:]} of the cycles, {cost.memory[1:]} MiB"
    assert says(POD, f"{sentence} and no collectives")
    assert says(POD, f"dropout adds {flax.estimated_share[1:]} of the cycles")
    few, some, many = (planned["resnet50", n, "both"].estimated_millions[1:] for n in SLICES)
    assert says(POD, f"{few} million cycles on 16 chips, {some} on 256 and {many} on 2,048")


@pytest.mark.parametrize(
    ("config", "regularizer", "words"),
    [
        ("language_model", "weights", "In the language model"),
        ("pos_tagging", "Dropout", "In the tagger"),
        ("weather_forecast", "both", "In the forecast"),
    ],
)
def test_numbers_of_flax_s_own_dropout_in_plans(config, regularizer, words, planned):
    ours, flax = (planned[config, "v5e:16x16", f"{by}{regularizer}"] for by in ("", "Flax "))
    of_flax, flax_memory, share, memory = (
        text.removeprefix("+") for text in (flax.share, flax.memory, ours.share, ours.memory)
    )
    sentence = f"{words} it adds {of_flax} of the cycles and {flax_memory} MiB, "
    assert says(POD, f"{sentence}and ours {share} and {memory} MiB.")


def test_what_the_readme_quotes_of_the_planned_pod():
    report = (RESULTS / "tpu_plan/report.md").read_text()
    rows = report[: report.index("## What dropout adds")].splitlines()
    configs = tuple(f"| {path.stem} |" for path in (RESULTS / "tpu_plan").glob("*.json"))
    quoted = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(configs)
    ]
    if not quoted:
        pytest.skip("the README has no table of the planned pod")
    assert set(quoted) <= set(rows)
