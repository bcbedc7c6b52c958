"""The results as a table, as JSON and as Markdown."""

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import flax
import jax
from ml_collections import ConfigDict
from rich.table import Table

import flax_spatialdrop

from .data import Corpus
from .grid import Grid
from .statistics import Estimate, Row, rows, sentence

COLUMNS = ("regularizer", "rate", "validation", "test", "over none", "seconds")


def start(config: ConfigDict, corpus: Corpus) -> dict[str, Any]:
    """Returns results without any regularizer yet: what ran, where, on what."""
    device = jax.devices()[0]
    return {
        "config": config.to_dict(),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": f"{device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores",
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "flax_spatialdrop": flax_spatialdrop.__version__,
        },
        "data": corpus.statistics,
        "documents_by": corpus.documents_by,
        "words": len(corpus.vocabulary.words),
        "tags": len(corpus.vocabulary.tags),
        "baseline_test_accuracy": corpus.baseline,
        "grid": {},
        "regularizers": {},
        "missing": list(config.regularizers),
    }


def add(results: dict[str, Any], name: str, result: dict[str, Any], grid: Grid) -> None:
    """Puts a finished regularizer into the results."""
    results["regularizers"][name] = result
    results["missing"].remove(name)
    results["grid"] = {"mode": grid.mode, "trials": grid.trials}


def save(results: dict[str, Any], workdir: Path) -> None:
    """Writes results.json and results.md; a crash leaves the old files or the new, never half."""
    _replace(workdir / "results.json", json.dumps(results, indent=1) + "\n")
    _replace(workdir / "results.md", markdown(results))


def table(results: dict[str, Any]) -> Table:
    """Returns the table for the terminal."""
    view = Table(title=f"{results['config']['name']}: accuracy in %, mean and 95 % interval")
    for index, column in enumerate(COLUMNS):
        view.add_column(column, justify="right" if index else "left", no_wrap=not index)
    for cells in _cells(results):
        view.add_row(*cells)
    return view


def sentences(results: dict[str, Any]) -> list[str]:
    """Returns what the results mean, and what is not in them, one sentence each."""
    seeds = results["config"]["seeds"]
    lines = [sentence(row, seeds) for row in rows(results) if row.name != "none"]
    lines += _capped(results)
    if results["missing"]:
        lines.append(f"No results for {', '.join(results['missing'])}.")
    return lines


def _capped(results: dict[str, Any]) -> list[str]:
    """Says which regularizers have runs that the cap on epochs ended before their patience."""
    config = results["config"]
    lines = []
    for name, result in results["regularizers"].items():
        capped = [
            run["epochs"] == config["epochs"]
            and run["epochs"] - run["best_epoch"] < config["patience"]
            for run in result["runs"]
        ]
        if any(capped):
            lines.append(
                f"{name}: {sum(capped)} of {len(capped)} runs reached the cap of "
                f"{config['epochs']} epochs before they were out of patience."
            )
    return lines


def data(results: dict[str, Any]) -> str:
    """Says what the corpus came to."""
    parts = [
        f"{name} {part['sentences']} sentences ({part['tokens']} tokens, {part['documents']} "
        f"documents; {part['left_out_as_too_long']} too long, left out)"
        for name, part in results["data"].items()
    ]
    return f"Data: {'; '.join(parts)}. Documents were told apart by: {results['documents_by']}."


def markdown(results: dict[str, Any]) -> str:
    """Returns the report as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return "\n".join(
        [
            f"# {results['config']['name']}",
            "",
            f"{results['date']}, {results['device']}, {versions}.",
            "",
            data(results),
            "",
            "Accuracy in %, mean and 95 % t-interval over "
            f"{results['config']['seeds']} seeds of one split. Rates are chosen on validation "
            "data; validation accuracies are those of each run's best epoch at the rate chosen on "
            "the same data, thus optimistic. Differences to none are in points, paired by seed; "
            "their intervals are not corrected for comparing several regularizers.",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
            *("| " + " | ".join(cells) + " |" for cells in _cells(results)),
            "",
            *(f"- {line}" for line in sentences(results)),
            "",
            *_cost(results),
        ]
    )


def _cost(results: dict[str, Any]) -> list[str]:
    """Says in which mode runs were trained, why, and what that cost."""
    if not results["regularizers"]:
        return []
    grid = results["grid"]
    trials = [
        f"{mode} {_seconds(trial)} ({trial['lanes']} at a time)"
        for mode, trial in grid["trials"].items()
    ]
    why = "as the config says"
    if trials:
        tried = grid["trials"][grid["mode"]]["regularizer"]
        why = (
            f"by a trial of an epoch of {tried}: {'; '.join(trials)}; vmapped would have to be "
            "twice as fast, since side by side all wait for the longest run"
        )
    costs = [f"{name} {_seconds(result)}" for name, result in results["regularizers"].items()]
    return [
        f"Runs were trained {grid['mode']}, {why}.",
        "",
        f"Cost, with all that surrounds a step: {'; '.join(costs)}.",
        "",
    ]


def _seconds(cost: dict[str, Any]) -> str:
    return (
        f"{cost['compile_seconds']:.1f} s to compile and "
        f"{1000 * cost['seconds_per_step']:.1f} ms a step of one run"
    )


def _cells(results: dict[str, Any]) -> list[tuple[str, ...]]:
    baseline = f"{100 * results['baseline_test_accuracy']:.1f}"
    return [
        ("most frequent tag", "", "", baseline, "", ""),
        *(_row_cells(row) for row in rows(results)),
    ]


def _row_cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        "" if row.name == "none" else f"{row.rate:g}",
        _text(row.validation),
        _text(row.test),
        "" if row.difference is None else _text(row.difference, sign="+", digits=2),
        f"{row.seconds:.0f}",
    )


def _text(value: Estimate, sign: str = "", digits: int = 1) -> str:
    mean = f"{100 * value.mean:{sign}.{digits}f}"
    return mean if value.half_width is None else f"{mean} ± {100 * value.half_width:.{digits}f}"


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
