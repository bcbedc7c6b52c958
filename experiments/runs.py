"""A run of a grid: its rate and seed, its end, and its record in the results."""

from collections import defaultdict
from typing import Any, NamedTuple

import jax
import numpy as np

from .train import Metrics, RunState


class Run(NamedTuple):
    """Identifies a run of a regularizer."""

    rate: float
    seed: int


class Finished(NamedTuple):
    """A finished run, with the metrics [epoch] of its epochs."""

    run: Run
    state: RunState
    history: Metrics

    @property
    def diverged(self) -> bool:
        """Whether a loss or a score was not finite. After that, the weights are not usable."""
        return not all(np.isfinite(values).all() for values in self.history)


def choose_rate(finished: list[Finished], higher_is_better: bool) -> float:
    """Returns the rate with the best mean validation score, and the lowest of equal ones."""
    scores = defaultdict(list)
    for one in finished:
        scores[one.run.rate].append(float(one.state.best_score))
    best = max if higher_is_better else min
    return best(sorted(scores), key=lambda rate: np.mean(scores[rate]))


def unstack(runs: list[Run], states: RunState, history: list[Metrics]) -> list[Finished]:
    """Separates runs that were trained side by side, without the epochs of frozen runs."""
    losses, scores = (np.stack(values) for values in zip(*history, strict=True))
    finished = []
    for lane, run in enumerate(runs):
        state = jax.tree.map(lambda leaf, lane=lane: leaf[lane], states)
        epochs = int(state.epoch)
        metrics = Metrics(losses[:epochs, lane], scores[:epochs, lane])
        finished.append(Finished(run, state, metrics))
    return finished


def record(one: Finished, test: tuple[np.ndarray, Any] | None) -> dict[str, Any]:
    """Returns the record of a run in the results.

    `test` is None if the rate of the run was not chosen. Scores that are not finite become None,
    because JSON has no NaN.
    """
    test_score = None if test is None else finite_or_none(test[0])
    kept: dict[str, Any] = {
        "rate": one.run.rate,
        "seed": one.run.seed,
        "epochs": int(one.state.epoch),
        "best_epoch": int(one.state.best_epoch),
        "diverged": one.diverged or (test is not None and test_score is None),
        "validation_score": None if one.diverged else float(one.state.best_score),
        "validation_curve": [finite_or_none(score) for score in one.history.score],
        "train_loss": [finite_or_none(loss) for loss in one.history.loss],
        "test_score": test_score,
    }
    if test is not None and test[1] is not None and one.run.seed == 0:
        kept["shown"] = np.round(test[1].astype(float), 2).tolist()
    return kept


def finite_or_none(value: Any) -> float | None:
    """Returns a float, or None for NaN and infinities."""
    return float(value) if np.isfinite(value) else None
