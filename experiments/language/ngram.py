"""The guess that needs no network: what followed the last few characters in training."""

import numpy as np

ORDER = 5
STEPS = 100
"""Of the fit of the mixture, which stands still long before."""


def perplexity(
    train: np.ndarray, validation: np.ndarray, test: np.ndarray, size: int
) -> tuple[float, list[float]]:
    """Returns the perplexity on a test stream, and the weights of the orders from 0.

    An n-gram gives every character the share that it had in training behind the same n - 1
    characters; where training never showed those, it is the (n - 1)-gram. Order 0 gives all `size`
    characters the same. The mixture's weights make the validation stream likeliest.
    """
    weights = fit(probabilities(train, validation, size))
    mixed = weights @ probabilities(train, test, size)
    return float(np.exp(-np.log(mixed).mean())), weights.tolist()


def probabilities(train: np.ndarray, stream: np.ndarray, size: int) -> np.ndarray:
    """Returns what each order gives to each character of a stream but the first: [order, place]."""
    rows = [np.full(len(stream) - 1, 1 / size)]
    for order in range(1, ORDER + 1):
        seen, asked = grams(train, order, size), grams(stream, order, size)
        together, before = counts(seen, asked), counts(seen // size, asked // size)
        rows.append(np.where(before > 0, together / np.maximum(before, 1), rows[-1]))
    return np.stack(rows)


def grams(stream: np.ndarray, order: int, size: int) -> np.ndarray:
    """Numbers the `order` characters that end with each but the first, which stands for earlier."""
    padded = np.concatenate([np.repeat(stream[:1], order - 1), stream[1:]]).astype(np.int64)
    places = np.lib.stride_tricks.sliding_window_view(padded, order)
    return places @ size ** np.arange(order - 1, -1, -1)


def counts(seen: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Returns how often each of the numbers asked for is among those seen."""
    ordered = np.sort(seen)
    return np.searchsorted(ordered, asked, "right") - np.searchsorted(ordered, asked, "left")


def fit(probabilities: np.ndarray) -> np.ndarray:
    """Fits the weights of a mixture [order] by expectation maximization."""
    weights = np.full(len(probabilities), 1 / len(probabilities))
    for _ in range(STEPS):
        shares = weights[:, None] * probabilities
        weights = (shares / shares.sum(0)).mean(1)
    return weights
