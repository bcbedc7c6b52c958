"""A run of a grid: its name, its end, and what is kept of it."""

from collections import defaultdict
from typing import Any, NamedTuple

import jax
import numpy as np

from .train import Metrics, RunState


class Run(NamedTuple):
    """What tells a run of a regularizer from its others."""

    rate: float
    seed: int


class Finished(NamedTuple):
    """A run at its end, and the metrics [epoch] of the epochs that it trained."""

    run: Run
    state: RunState
    history: Metrics

    @property
    def diverged(self) -> bool:
        """Whether a loss or a score was no finite number, after which no weights can be trusted."""
        return not all(np.isfinite(values).all() for values in self.history)


def choose_rate(finished: list[Finished], higher_is_better: bool) -> float:
    """Returns the rate whose runs have the best mean validation score; the lower of equals."""
    scores = defaultdict(list)
    for one in finished:
        scores[one.run.rate].append(float(one.state.best_score))
    best = max if higher_is_better else min
    return best(sorted(scores), key=lambda rate: np.mean(scores[rate]))


def unstack(runs: list[Run], states: RunState, history: list[Metrics]) -> list[Finished]:
    """Takes runs trained side by side apart; the epochs that a run sat out frozen are left out."""
    losses, scores = (np.stack(values) for values in zip(*history, strict=True))
    finished = []
    for lane, run in enumerate(runs):
        state = jax.tree.map(lambda leaf, lane=lane: leaf[lane], states)
        epochs = int(state.epoch)
        metrics = Metrics(losses[:epochs, lane], scores[:epochs, lane])
        finished.append(Finished(run, state, metrics))
    return finished


def record(one: Finished, test: tuple[np.ndarray, Any] | None) -> dict[str, Any]:
    """Returns what the results keep of a run; `test` is None if its rate was not chosen.

    A score that is no finite number is None, as JSON has no other word for it.
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
