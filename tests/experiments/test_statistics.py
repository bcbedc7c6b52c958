import pytest
from scipy import stats

from experiments.forecasting.task import Forecasting
from experiments.statistics import (
    Estimate,
    Row,
    by_rate,
    chosen,
    estimate,
    over_baseline,
    rows,
    sentence,
)
from experiments.tagging.task import Tagging

from .conftest import diverge


def row(name="Dropout", difference=None):
    return Row(name, "none", 1.0, 0.5, Estimate(0.9, 0.01), Estimate(0.8, 0.01), difference)


def test_the_interval_is_that_of_a_t_test():
    values = [0.1, 0.2, 0.4, 0.5, 0.9]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean, half = estimate(values)
    assert mean - half == pytest.approx(expected.low)
    assert mean + half == pytest.approx(expected.high)


def test_one_seed_has_no_interval():
    assert estimate([0.5]) == (0.5, None)


def test_rows_take_the_chosen_rate_and_pair_differences_by_seed(results):
    results["regularizers"]["none"]["runs"].reverse()
    plain, dropout = rows(results)
    assert plain.difference is None
    assert dropout.rate == 0.5
    assert dropout.test.mean == pytest.approx(0.855)
    assert dropout.difference.mean == pytest.approx(0.045)
    # The differences are 0.04 and 0.05; without pairing, the interval would be wider.
    assert dropout.difference.half_width == pytest.approx(12.706 * 0.005, rel=1e-3)


def test_without_none_there_is_no_difference(results):
    del results["regularizers"]["none"]
    [dropout] = rows(results)
    assert dropout.difference is None


def test_chosen_is_in_the_order_of_seeds(results):
    results["regularizers"]["Dropout"]["runs"].reverse()
    assert chosen(results["regularizers"]["Dropout"], "seed") == [0, 1]


def test_by_rate_is_in_order_without_rates_that_diverged():
    runs = [
        {"rate": rate, "seed": seed, "diverged": rate == 0.5 and seed == 1, "score": rate + seed}
        for rate in (0.9, 0.5, 0.1)
        for seed in (1, 0)
    ]
    found = by_rate({"runs": runs}, "score")
    assert list(found.items()) == [(0.1, [0.1, 1.1]), (0.9, [0.9, 1.9])]


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (
            Estimate(0.008, 0.006),
            "Dropout: 0.80 points over none, which is better (95 % interval +0.20 to +1.40).",
        ),
        (
            Estimate(-0.008, 0.006),
            "Dropout: 0.80 points below none, which is worse (95 % interval -1.40 to -0.20).",
        ),
        (
            Estimate(0.005, 0.006),
            "Dropout: no difference to none that 5 seeds can show "
            "(+0.50 points, 95 % interval -0.10 to +1.10).",
        ),
        (Estimate(0.005, None), "Dropout: +0.50 points over none; one seed gives no interval."),
        (None, "Dropout: nothing to compare it to."),
    ],
)
def test_sentence(difference, text):
    assert sentence(row(difference=difference), 5, Tagging.metric) == text


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (-0.3, "zoneout: 0.30 °F below none, which is better (95 % interval -0.50 to -0.10)."),
        (0.3, "zoneout: 0.30 °F over none, which is worse (95 % interval +0.10 to +0.50)."),
        (
            -0.1,
            "zoneout: no difference to none that 5 seeds can show "
            "(-0.10 °F, 95 % interval -0.30 to +0.10).",
        ),
    ],
)
def test_sentence_where_lower_is_better(mean, text):
    difference = Estimate(mean, 0.2)
    assert sentence(row("zoneout", difference), 5, Forecasting.metric) == text


def test_the_plain_network_is_compared_to_the_baseline(results):
    plain = over_baseline(rows(results)[0], results)
    assert plain.compared_to == "most frequent tag"
    assert plain.difference.mean == pytest.approx(0.81 - 0.75)
    assert plain.difference.half_width == plain.test.half_width


def test_what_diverged_has_no_numbers_and_nothing_is_compared_to_it(results):
    diverge(results, "none")
    plain, dropout = rows(results)
    assert plain == ("none", None, 3.2, None, None, None, None)
    assert over_baseline(plain, results) == plain
    assert dropout.test.mean == pytest.approx(0.855)
    assert dropout.difference is None


def test_a_test_that_gave_no_number_has_diverged(results):
    results["regularizers"]["none"]["runs"][0]["diverged"] = True
    assert rows(results)[0].test is None
