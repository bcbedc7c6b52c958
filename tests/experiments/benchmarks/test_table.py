from experiments.benchmarks import table
from experiments.benchmarks.here import TIME
from experiments.benchmarks.results import Record, Results
from experiments.benchmarks.tpu import SCHEDULE

NAMES = ("copy", "flax_spatialdrop", "Flax", "Flax again", "PyTorch", "PyTorch copy")


def record(row, *values, quantity=TIME, baseline="copy"):
    spread = {name: (v, v) for name, v in zip(NAMES, values, strict=False)}
    return Record("layers", row, quantity, dict(zip(NAMES, values, strict=False)), baseline, spread)


FAST = record("spatial f32[32, 64, 64, 128] forward", 10.0, 12.0, 48.0, 50.0, 60.0, 20.0)
SLOW = record("a slow row", 10.0, 12.0, 10.0, 10.5)
KEPT = record("a row", 0.0, 48.0, 4096.0, quantity="bytes", baseline=None)


def results(*records):
    return Results("cpu", "a device", {"jax": "1.2.3"}, ["Keras"], "2026-01-02", list(records))


def test_ratios_are_to_the_copy_and_pytorch_s_to_its_own():
    lines = table.table([FAST])
    assert lines[0] == "| row | copy | flax_spatialdrop | Flax | PyTorch | Flax / ours | noise |"
    row = "| spatial f32[32, 64, 64, 128] forward | 10 ms | 1.20 | 4.80 | 3.00 | 4.00 | ± 4 % |"
    assert lines[2] == row


def test_kernels_are_beside_what_they_compare_to():
    of_layer = record("a layer", 10.0, 12.0, 48.0, baseline=None)
    of_layer.values |= {"with fast_key, kernel": 11.0, "with fast_key": 13.0}
    header = "| row | copy | flax_spatialdrop | with fast_key | with fast_key, kernel | Flax |"
    assert table.table([of_layer])[0].startswith(header)


def test_quantities_without_a_baseline_are_given_as_they_are():
    lines = table.table([KEPT])
    assert lines[0] == "| row | copy | flax_spatialdrop | Flax | Flax / ours |"
    assert lines[2] == "| a row | 0 | 48 | 4,096 | 85.33 |"


def test_rows_that_are_slower_beyond_the_noise_are_named():
    text = table.report(results(FAST, SLOW))
    assert "- layers: a slow row, time in ms (1.20 of Flax's)" in text
    assert "No row is slower" in table.report(results(FAST))
    within = record("within noise", 10.0, 10.4, 10.0, 10.5)
    assert "No row is slower" in table.report(results(within))


def test_the_report_says_on_what_and_what_is_missing():
    text = table.report(results(FAST, KEPT))
    assert "a device, 2026-01-02; jax 1.2.3" in text
    assert "Not installed, so left out: Keras." in text
    assert "## Layers: time in ms" in text
    assert "## Layers: bytes" in text


def test_an_estimate_has_no_noise_to_hide_behind():
    estimate = record("an estimate", 10.0, 12.0, 11.0, quantity="estimated cycles")
    estimate.spread = {}
    text = table.report(results(estimate))
    assert "- layers: an estimate, estimated cycles (1.09 of Flax's)" in text
    assert "noise of a row" not in text


def test_what_a_schedule_leaves_out_is_below_its_table():
    row = record("a row", 10.0, 12.0, 11.0, quantity=SCHEDULE)
    row.values["floor"], row.spread = 5.0, {}
    row.notes = {"Flax": "2 % of the cycles are uncertain"}
    text = table.report(results(row))
    assert "| a row | 10 | 0.50 | 1.20 | 1.10 |" in text
    assert "\na row, Flax: 2 % of the cycles are uncertain.\n" in text
    assert "The floor is what HBM needs" in text
    assert "The floor" not in table.report(results(FAST))
