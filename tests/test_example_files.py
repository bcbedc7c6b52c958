"""The files in docs/examples/ train at small sizes, and learn."""

import pathlib
import runpy

import jax
import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "docs/examples"


@pytest.fixture
def example():
    """Returns a function that runs the main of a file, with JAX's own settings."""

    def run(name, **sizes):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return runpy.run_path(str(FOLDER / f"{name}.py"))["main"](**sizes)

    return run


def test_the_vision_transformer_learns(example, capsys):
    accuracy = example("vit_nnx", epochs=3, batch=50, width=16, depth=1, heads=2)
    assert "epoch 3: loss" in capsys.readouterr().out
    assert accuracy > 0.3  # by chance, 0.1


def test_the_decoder_learns_and_writes(example, capsys):
    sizes = {"batch": 8, "window": 16, "width": 16, "depth": 1, "heads": 2}
    perplexity, frequencies = example(
        "decoder_linen", steps=150, learning_rate=1e-2, written=3, **sizes
    )
    assert "step 150: test perplexity" in capsys.readouterr().out
    assert perplexity < frequencies


def test_the_forecaster_learns(example, capsys):
    error, persistence = example(
        "lstm_forecaster", epochs=4, hidden=8, learning_rate=1e-2, stride=4
    )
    assert "epoch 4: test error" in capsys.readouterr().out
    assert error < persistence


def test_every_file_is_tested():
    text = pathlib.Path(__file__).read_text()
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names
    assert all(f'"{name}"' in text for name in names)
