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
    if results["missing"]:
        lines.append(f"Interrupted: no results for {', '.join(results['missing'])}.")
    return lines


def markdown(results: dict[str, Any]) -> str:
    """Returns the report as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [
        f"{name} {part['sentences']} sentences ({part['tokens']} tokens, {part['documents']} "
        f"documents; {part['left_out_as_too_long']} too long, left out)"
        for name, part in results["data"].items()
    ]
    return "\n".join(
        [
            f"# {results['config']['name']}",
            "",
            f"{results['date']}, {results['device']}, {versions}.",
            "",
            f"Data: {'; '.join(parts)}.",
            "",
            "Accuracy in %, mean and 95 % t-interval over "
            f"{results['config']['seeds']} seeds of one split. Rates are chosen on validation "
            "data. Differences to none are in points, paired by seed; their intervals are not "
            "corrected for comparing several regularizers.",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
            *("| " + " | ".join(cells) + " |" for cells in _cells(results)),
            "",
            *(f"- {line}" for line in sentences(results)),
            "",
            *_cost(results["grid"]),
        ]
    )


def _cost(grid: dict[str, Any]) -> list[str]:
    trials = [
        f"{mode} {1000 * trial['seconds_per_step']:.1f} ms a step of one run and "
        f"{trial['compile_seconds']:.1f} s to compile"
        for mode, trial in grid.get("trials", {}).items()
    ]
    return (
        [f"Runs were trained {grid['mode']}, the faster of: {'; '.join(trials)}.", ""]
        if trials
        else []
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
        "" if row.difference is None else _text(row.difference, "+.2f"),
        f"{row.seconds:.0f}",
    )


def _text(value: Estimate, form: str = ".1f") -> str:
    mean = f"{100 * value.mean:{form}}"
    return mean if value.half_width is None else f"{mean} ± {100 * value.half_width:{form[-3:]}}"


def _replace(path: Path, text: str) -> None:
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
