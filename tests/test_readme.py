"""The README is short, its links work, and its numbers are those that the commands printed."""

import json
import pathlib
import re
import tomllib

import pytest

import flax_spatialdrop
import flax_spatialdrop.linen
import flax_spatialdrop.nnx
from experiments.benchmarks import table
from experiments.benchmarks.results import Results

from .catalogue import TOOLS

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TEXT = " ".join(README.split())
RESULTS = ROOT / "experiments/results"
REPORTS = sorted((RESULTS / "benchmarks").glob("*.json"))
CPU = {record.id: record for record in Results.load(RESULTS / "benchmarks/cpu.json").records}


def test_it_is_short():
    assert len(README.splitlines()) <= 200


def test_the_commands_stay():
    install = "pip install -e '.[{}]' && pip install --no-deps dante-corpora==2.0.5 && python -m "
    commands = [
        install.format("experiments") + "experiments.main --config=configs/pos_tagging.py",
        install.format("test") + "pytest -n 2",
    ]
    assert re.findall("^pip install -e .* && python -m .*$", README, re.M) == commands


def test_how_long_the_experiment_takes():
    found = json.loads((RESULTS / "pos_tagging/results.json").read_text())["regularizers"]
    minutes = sum(row["seconds"] for row in found.values()) / 60
    assert f"about {['five', 'six', 'seven'][round(minutes) - 5]} minutes on 2 CPU cores" in TEXT


def value(section, row, quantity, name):
    return CPU[section, row, quantity].values[name]


def test_the_losses_are_those_of_flax():
    quantity = "largest difference of a loss to Flax's"
    found = {record.row: record for id, record in CPU.items() if id[2] == quantity}
    assert [*found] == ["transformer language model, 50 steps", "ResNet, 50 steps"]
    difference = max(max(record.values.values()) for record in found.values())
    sentence = "Over 50 training steps of a transformer and a ResNet, the largest difference of a"
    assert f"{sentence} loss is {difference:g}." in TEXT


def test_how_fast_a_layer_is():
    size = "f32[32, 64, 64, 128]"
    rows = [f"element-wise {size} forward", f"spatial {size} forward", f"spatial {size} pullback"]
    element, forward, back = (CPU["layers", row, "time in ms"].speedup for row in rows)
    assert f"of {size} has its own draw, it is {element:.2f} times as fast as Flax's" in TEXT
    assert f"Flax's takes {forward:.2f} of our time forward, and {back:.2f} backward" in TEXT


def test_how_much_memory_a_network_takes():
    row = "networks", "chain of 12, element-wise", "scratch memory in MiB"
    ours, flax = (value(*row, name) for name in ("flax_spatialdrop", "Flax"))
    sentence = f"The gradient of 12 layers takes {ours:.0f} MiB of scratch memory, and {flax:.0f}"
    assert f"{sentence} MiB with Flax's." in TEXT


def test_what_attention_takes():
    row = "attention", "f32[2, 2048, 8, 64] gradient"
    ours, flax = (value(*row, "scratch memory in MiB", name) for name in ("in blocks", "Flax"))
    sentence = f"Its gradient over 2,048 positions, with dropped weights, takes {ours:.1f} MiB of"
    assert f"{sentence} scratch memory, and Flax's takes {flax:,.0f} MiB." in TEXT
    ours, flax = (value(*row, "time in ms", name) for name in ("in blocks", "Flax"))
    assert f"It takes {ours / flax:.2f} of the time of Flax's." in TEXT


def test_how_fast_an_lstm_is():
    row = "recurrent", "LSTM f32[32, 256, 512] -> 512", "time in ms"
    ours, flax = (value(*row, name) for name in ("flax_spatialdrop", "Flax"))
    assert f"of an LSTM with dropout of inputs and state takes {ours:.0f} ms." in TEXT
    assert f"That of Flax's RNN, which has no dropout, takes {flax:.0f} ms." in TEXT


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_reports_are_made_of_their_results(path):
    assert table.report(Results.load(path)) == path.with_suffix(".md").read_text()


def test_the_table_has_every_regularizer():
    functions = {name for name in flax_spatialdrop.__all__ if name.islower()} - TOOLS
    rows = re.findall(r"^\| \[(.*)\]\(.*\) \|", README, re.M)
    cells = [re.findall("`(.*?)`", row) for row in rows]
    # The ending "_1d" stands for the name before it, with this ending.
    names = [row[0] + name if name.startswith("_") else name for row in cells for name in row]
    attention = {"blockwise_attention", "dot_product_attention"}
    assert sorted(names) == sorted(functions | attention)
    for name in names[: names.index("head_dropout") + 1]:
        module = "".join(part[0].upper() + part[1:] for part in name.split("_"))
        module = module.replace("1d", "1D").replace("2d", "2D").replace("3d", "3D")
        assert module in flax_spatialdrop.linen.__all__
        assert module in flax_spatialdrop.nnx.__all__


def test_its_links_lead_somewhere():
    targets = [part.split(")")[0] for part in README.split("](")[1:]]
    inside = [target for target in targets if not target.startswith("http")]
    assert inside
    for target in inside:
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        if anchor:
            headings = re.findall("^#+ (.*)$", (ROOT / path).read_text(), re.M)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("page", ["README.md", "docs/getting_started.md"])
def test_the_oldest_versions_are_those_that_the_package_takes(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = dict(name.split(">=") for name in project["dependencies"])
    text = " ".join((ROOT / page).read_text().split())
    python = project["requires-python"].removeprefix(">=")
    jax, flax = oldest["jax"], oldest["flax"]
    assert f"Python {python} or later, JAX {jax} or later and Flax {flax} or later" in text
