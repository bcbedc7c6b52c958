"""Writes the results as JSON and as tables in Markdown."""

import json
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from .. import devices, report
from ..statistics import Estimate, estimate
from ..tables import Table
from .masks import FORMS, NEIGHBORS
from .prediction import CLOSE, NEAR

Results = dict[str, Any]


def start(config: ConfigDict, law: dict[str, Any]) -> Results:
    """Returns results without places."""
    return {
        **report.origin(config, devices.describe(devices.defaults(runs=1), 1)),
        "law": law,
        "places": {},  # by name, what was measured for each seed
        "shown": None,
    }


def texts(results: Results) -> dict[str, str]:
    """Returns the texts of results.json and results.md."""
    return {
        "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
        "results.md": markdown(results),
    }


def line(place: str, seed: int, measured: dict[str, Any]) -> str:
    """Formats what was measured at a place for the terminal."""
    shares = ", ".join(f"{form} {share:.2f}" for form, share in measured["neighbors"].items())
    return (
        f"{place}, seed {seed}: correlation {measured['correlation']:.2f}, given back by "
        f"neighbors: {shares}"
    )


def markdown(results: Results) -> str:
    """Returns the report as Markdown."""
    config = results["config"]
    size = config["block_size"]
    lines = [
        *report.heading(results),
        f"Means and 95 % t-intervals over {config['seeds']} seeds, of the networks' training and "
        "of what is sampled. Dropout drops single values, DropBlock blocks of "
        f"{size} x {size} values of a channel ({size} in time), and SpatialDropout whole channels.",
        "",
    ]
    for section in (_neighbors, _effective_rates, _noise):
        table, legend = section(results)
        if table.rows:
            lines += [f"## {table.title}", "", legend, "", *table.markdown(), ""]
    return "\n".join(lines)


def _neighbors(results: Results) -> tuple[Table, str]:
    rows = [
        (
            place,
            *_texts(
                correlation(results, place),
                *(neighbors(results, place, form) for form in NEIGHBORS),
            ),
        )
        for place in results["places"]
    ]
    columns = ("place", "correlation of adjacent values", *NEIGHBORS)
    return Table("What neighbors give back", columns, rows), (
        f"The share of a dropped value, at a rate of {results['config']['rate']:g}, that a linear "
        "predictor gives back from the visible values of its channel that are at most "
        f"{NEAR} positions away. It is R^2 on maps that the predictor was not fitted on. "
        "SpatialDropout leaves no such value."
    )


def _effective_rates(results: Results) -> tuple[Table, str]:
    rows = [
        (
            place,
            rate,
            *_texts(
                *(effective_rate(results, place, form, rate) for form in FORMS),
                more_removed(results, place, rate),
            ),
        )
        for place in results["places"]
        for rate in (f"{rate:g}" for rate in results["config"]["rates"])
    ]
    columns = ("place", "rate", *FORMS, "SpatialDropout - Dropout")
    return Table("The effective drop rate", columns, rows), (
        "The rate, times the share of a dropped value that is not given back. The predictor now "
        f"sees the other channels too, at most {CLOSE} position away. If all values were "
        "independent, this would be the rate itself."
    )


def _noise(results: Results) -> tuple[Table, str]:
    config = results["config"]
    rows = [
        (
            place,
            *_texts(
                accuracy(results, place),
                *(noise(results, place, form) for form in FORMS),
                noise_ratio(results, place),
            ),
        )
        for place in in_networks(results)
    ]
    columns = ("dropout after", "accuracy", *FORMS, "SpatialDropout / Dropout")
    return Table("The noise of the gradient", columns, rows), (
        f"The variance of the gradient of a network's first layer over {config['gradient_masks']} "
        f"masks at a rate of {config['rate']:g}, for one batch, over its squared mean. The "
        "networks were trained without dropout, to this test accuracy."
    )


def in_networks(results: Results) -> list[str]:
    """Returns the places that are in trained networks."""
    return [place for place, seeds in results["places"].items() if seeds[0]["noise"]]


def correlation(results: Results, place: str) -> Estimate:
    """Returns the correlation of adjacent values at a place."""
    return estimate([seed["correlation"] for seed in results["places"][place]])


def neighbors(results: Results, place: str, form: str) -> Estimate:
    """Returns the share that the own channel gives back at the rate of the config."""
    return estimate([seed["neighbors"][form] for seed in results["places"][place]])


def effective_rate(results: Results, place: str, form: str, rate: str) -> Estimate:
    """Returns the rate times the share that no visible value gives back."""
    return estimate(_removed(results, place, form, rate))


def more_removed(results: Results, place: str, rate: str) -> Estimate:
    """Returns how much larger the effective rate of whole channels is, paired by seed."""
    spatial, single = (_removed(results, place, f, rate) for f in ("SpatialDropout", "Dropout"))
    return estimate(np.subtract(spatial, single).tolist())


def accuracy(results: Results, place: str) -> Estimate:
    """Returns the test accuracy of the networks of a place."""
    return estimate([seed["test score"] for seed in results["places"][place]])


def noise(results: Results, place: str, form: str) -> Estimate:
    """Returns the noise of the gradient with dropout at a place."""
    return estimate([seed["noise"][form] for seed in results["places"][place]])


def noise_ratio(results: Results, place: str) -> Estimate:
    """Returns the noise of whole channels over that of single values, paired by seed."""
    noises = [seed["noise"] for seed in results["places"][place]]
    return estimate([each["SpatialDropout"] / each["Dropout"] for each in noises])


def _removed(results: Results, place: str, form: str, rate: str) -> list[float]:
    seeds = results["places"][place]
    return [float(rate) * (1 - seed["given back"][form][rate]) for seed in seeds]


def _texts(*cells: Estimate) -> list[str]:
    widths = ["" if cell.half_width is None else f" ± {cell.half_width:.3f}" for cell in cells]
    return [f"{cell.mean:.3f}{width}" for cell, width in zip(cells, widths, strict=True)]
