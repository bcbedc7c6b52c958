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
    """Returns what the results keep of a run; `test` is None if its rate was not chosen."""
    kept = {
        "rate": one.run.rate,
        "seed": one.run.seed,
        "epochs": int(one.state.epoch),
        "best_epoch": int(one.state.best_epoch),
        "validation_score": float(one.state.best_score),
        "validation_curve": one.history.score.tolist(),
        "train_loss": one.history.loss.tolist(),
        "test_score": None if test is None else float(test[0]),
    }
    if test is not None and test[1] is not None and one.run.seed == 0:
        kept["shown"] = np.round(test[1].astype(float), 2).tolist()
    return kept
