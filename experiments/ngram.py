"""The baseline: predicts a symbol from the last few symbols, by counts in training."""

import numpy as np

STEPS = 100
"""Of expectation maximization, which converges in fewer."""


def perplexity(
    train: np.ndarray, validation: np.ndarray, test: np.ndarray, size: int, order: int
) -> tuple[float, list[float]]:
    """Returns the perplexity on a test stream, and the weights of the orders from 0.

    An n-gram gives each symbol its frequency in training after the same n - 1 symbols. If training
    does not have these, it is the (n - 1)-gram. Order 0 gives all `size` symbols the same
    probability. The weights of the mixture maximize the likelihood of the validation stream.
    """
    weights = fit(probabilities(train, validation, size, order))
    mixed = weights @ probabilities(train, test, size, order)
    return float(np.exp(-np.log(mixed).mean())), weights.tolist()


def probabilities(train: np.ndarray, stream: np.ndarray, size: int, highest: int) -> np.ndarray:
    """Returns the probability by each order of each symbol but the first: [order, place]."""
    rows = [np.full(len(stream) - 1, 1 / size)]
    for order in range(1, highest + 1):
        seen, asked = grams(train, order, size), grams(stream, order, size)
        together, before = counts(seen, asked), counts(seen // size, asked // size)
        rows.append(np.where(before > 0, together / np.maximum(before, 1), rows[-1]))
    return np.stack(rows)


def grams(stream: np.ndarray, order: int, size: int) -> np.ndarray:
    """Numbers the n-grams that end at each symbol but the first, which pads the beginning."""
    padded = np.concatenate([np.repeat(stream[:1], order - 1), stream[1:]]).astype(np.int64)
    places = np.lib.stride_tricks.sliding_window_view(padded, order)
    return places @ size ** np.arange(order - 1, -1, -1)


def counts(seen: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Returns how often each number of `asked` is in `seen`."""
    ordered = np.sort(seen)
    return np.searchsorted(ordered, asked, "right") - np.searchsorted(ordered, asked, "left")


def fit(probabilities: np.ndarray) -> np.ndarray:
    """Fits the weights of a mixture [order] by expectation maximization."""
    weights = np.full(len(probabilities), 1 / len(probabilities))
    for _ in range(STEPS):
        shares = weights[:, None] * probabilities
        weights = (shares / shares.sum(0)).mean(1)
    return weights
