import pytest

from experiments import report
from experiments.output import Console as Output
from experiments.task import Metric

from .conftest import diverge


def test_the_table_fits_eighty_columns_and_has_every_row(results, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    report.scores(results).show(Output())
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if "│" in line]
    assert len(lines) == 3
    assert [cell.strip() for cell in lines[0].split("│")[1:5]] == [
        "most frequent tag", "", "", "75.0",
    ]  # fmt: skip
    assert "+4.50" in lines[2]


CONFIDENCE = Metric("confidence", "", "", 1, 3, higher_is_better=False)


def test_a_smoke_run_says_so_and_draws_no_conclusion(results, capsys):
    """A condition has its name behind that of the config."""
    assert "- Dropout: no difference to none" in report.markdown(results)
    for name in ("example-smoke", "example-smoke, 100 images"):
        results["config"]["name"] = name
        text = report.markdown(results)
        assert f"\n{report.SMOKE}\n" in text
        assert "difference to none" not in text
        assert "rate offered" not in text
        assert "| Dropout | 0.5 |" in text
        assert "- No results for SpatialDropout1D." in text
    report.show(results, Output())
    assert capsys.readouterr().out.startswith(f"{report.SMOKE}\n")


def test_measures_have_tables_of_their_own(results, capsys):
    results["measures"] = {"confidence": CONFIDENCE._asdict()}
    for name, values in (("none", (0.5, 0.75)), ("Dropout", (0.25, 0.625, 1.0, None))):
        runs = results["regularizers"][name]["runs"]
        for run, value in zip(runs, values, strict=True):
            run["measures"] = {"confidence": value, "curve": [0.5]}
    # In the two seeds, dropout is 0.25 and 0.125 lower than none: +- 12.706 * 0.0625.
    assert (
        "\nConfidence (lower is better):\n\n"
        "| regularizer | rate | confidence | difference |\n"
        "|---|---:|---:|---:|\n"
        "| none |  | 0.625 ± 1.588 |  |\n"
        "| Dropout | 0.5 | 0.438 ± 2.382 | -0.188 ± 0.794 |\n"
    ) in report.markdown(results)
    report.show(results, Output())
    assert "-0.188 ± 0.794" in capsys.readouterr().out
    results["regularizers"]["Dropout"]["runs"][0]["measures"]["confidence"] = None
    assert "| Dropout |  | not finite |  |" in report.markdown(results)


def test_the_report_tells_whether_seeds_share_a_split(results):
    assert "over 2 seeds of one split." in report.markdown(results)
    results["folds"] = 4
    assert "over 2 seeds, each with a split of its own." in report.markdown(results)


def test_the_report_names_what_is_missing(results):
    assert report.sentences(results)[-1] == "No results for SpatialDropout1D."
    assert "- No results for SpatialDropout1D." in report.markdown(results)
    results["missing"] = []
    assert "No results" not in report.markdown(results)


def test_the_report_counts_runs_that_the_cap_on_epochs_ended(results):
    first, last = results["regularizers"]["Dropout"]["runs"][:2]
    assert (first["epochs"], last["epochs"]) == (2, 3)
    sentence = (
        "Runs that reached the cap of 3 epochs before they were out of patience: none 1 of 2, "
        "Dropout 2 of 4."
    )
    assert sentence in report.sentences(results)
    assert sentence in report.markdown(results)
    # If the patience ends in the last epoch, it counts as early stopping.
    results["config"]["patience"] = 1
    assert "cap" not in " ".join(report.sentences(results))
    results["config"]["patience"] = 3  # no early stopping
    assert "cap" not in " ".join(report.sentences(results))


def test_before_a_regularizer_is_finished_there_is_no_table(results, capsys):
    results["missing"] = ["none", "Dropout"]
    results["regularizers"].clear()
    assert report.body(results) == ["- No regularizer is finished yet.", ""]
    report.show(results, Output())
    assert capsys.readouterr().out == "No regularizer is finished yet.\n"


def test_the_report_says_what_resume_skips(results):
    results["unfinished"] = [{}]
    assert report.skipped(results) == (
        "--resume skips what has ended: none, Dropout, 1 run of SpatialDropout1D."
    )
    results["unfinished"] = [{}, {}]
    assert report.skipped(results).endswith(", 2 runs of SpatialDropout1D.")
    results.update(regularizers={}, unfinished=[])
    assert report.skipped(results) == "No run has ended yet: nothing is skipped."


def test_markdown_tells_the_data_and_what_the_numbers_are(results):
    text = report.markdown(results)
    assert "\nData: ten sentences.\n" in text
    assert "Accuracy in % (higher is better), mean and 95 % t-interval over 2 seeds" in text
    assert "Differences are to none, in points, paired by seed" in text
    assert "thus optimistic" in text
    assert "| Dropout | 0.5 | 90.0 ± 0.0 | 85.5 ± " in text


def test_markdown_tells_the_cost(results):
    assert "Cost, with all that surrounds a step: none 1.2 s to compile" in report.markdown(results)
    assert "Dropout 1.2 s to compile and 3.1 ms a step of one run" in report.markdown(results)
    again = report.resumed(results, results)
    assert "Cost of 2 starts together, with all that surrounds" in report.markdown(again)


def test_the_cost_of_a_step_is_that_of_runs_that_share_it(results):
    results["regularizers"]["Dropout"]["side_by_side"] = 8
    assert (
        "Dropout 1.2 s to compile and 3.1 ms a step of one run "
        "(8 runs side by side share the time of a step)."
    ) in report.markdown(results)


def test_a_report_names_all_devices_that_were_used(results):
    for device in ("8 x TPU v5e", "cpu"):
        results = report.resumed(results, {"config": {}, "device": device})
    assert (results["device"], results["config"]) == ("cpu; then 8 x TPU v5e", {})


def test_the_report_compares_the_plain_network_to_the_baseline(results):
    lines = report.sentences(results)
    assert lines[0] == (
        "none: no difference to most frequent tag that 2 seeds can show "
        "(+6.00 points, 95 % interval -6.71 to +18.71)."
    )
    results["baseline_test_score"] = 0.2
    assert report.sentences(results)[0].startswith(
        "none: 61.00 points over most frequent tag, which is better (95 % interval"
    )


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ([0.1, 0.5, 0.7], None),
        ([0.1, 0.5], "highest rate offered was chosen by Dropout: a higher one may"),
        ([0.7, 0.5], "lowest rate offered was chosen by Dropout: a lower one may"),
        ([0.5], None),
    ],
)
def test_the_report_says_where_a_rate_at_the_edge_was_chosen(results, rates, text):
    runs = results["regularizers"]["Dropout"]["runs"]
    chosen = [run for run in runs if run["rate"] == 0.5]
    results["regularizers"]["Dropout"]["runs"] = [
        {**run, "rate": rate} for rate in rates for run in chosen
    ]
    lines = [line for line in report.sentences(results) if "rate offered" in line]
    assert lines == ([f"The {text} be better still."] if text else [])


def test_the_report_of_an_error_says_that_lower_is_better(errors):
    text = report.markdown(errors)
    assert "RMSE in °F (lower is better), mean and 95 % t-interval over 2 seeds" in text
    assert "Differences are to none, in °F, paired by seed" in text
    assert "| persistence |  |  | 0.75 |  |  |" in text
    # In the two seeds, dropout is 0.04 and 0.05 higher than none: +- 12.706 * 0.005.
    assert "| Dropout | 0.5 | 0.90 ± 0.00 | 0.85 ± 0.19 | +0.04 ± 0.06 |" in text


def test_differences_are_to_the_plain_network_of_each(results):
    finished = results["regularizers"]
    finished["CNN none"] = {**finished["Dropout"], "compared_to": None, "chosen_rate": 0.5}
    finished["CNN channels"] = {**finished["none"], "compared_to": "CNN none"}
    text = report.markdown(results)
    assert "Differences are to none or CNN none, in points" in text
    assert "| CNN channels | 0 | 80.0 ± 0.0 | 81.0 ± 12.7 | -4.50 ± 6.35 |" in text
    assert "CNN channels: no difference to CNN none that 2 seeds can show (-4.50" in text


@pytest.mark.parametrize("width", [40, 80])
def test_every_number_fits_every_terminal(results, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    report.show(results, Output())
    out = capsys.readouterr().out
    for number in ("75.0", "81.0 ± 12.7", "85.5 ± 19.1", "+4.50 ± 6.35"):
        assert number in out
    assert "…" not in out
    assert ("┃" in out) == (width == 80)


def test_the_report_names_runs_that_diverged(results):
    for run in results["regularizers"]["Dropout"]["runs"][2:]:
        run["diverged"] = True
    line = "Dropout: 2 of 4 runs diverged (rate 0.1); a rate with such a run is not chosen."
    assert line in report.sentences(results)
    assert "| Dropout | 0.5 | 90.0 ± 0.0 | 85.5 ± " in report.markdown(results)
    diverge(results, "none")
    lines = report.sentences(results)
    assert lines[:2] == [
        "none: diverged, so there is nothing to compare.",
        "Dropout: nothing to compare it to.",
    ]
    assert "none: 2 of 2 runs diverged." in lines
    text = report.markdown(results)
    assert "| none |  | diverged | diverged |  | 3 |" in text
    assert "| Dropout | 0.5 | 90.0 ± 0.0 | 85.5 ± 19.1 |  | 3 |" in text
    diverge(results, "Dropout")
    text = report.markdown(results)
    assert "| Dropout |  | diverged | diverged |  | 3 |" in text
    assert "Dropout: 4 of 4 runs diverged (rate 0.5, 0.1);" in text
    assert "reached the cap" not in text
