"""The runs of a grid: their rates and seeds, how far they are, and their records in the results."""

import dataclasses
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

Record = dict[str, Any]


class Run(NamedTuple):
    """Identifies a run of a regularizer."""

    rate: float
    seed: int


@dataclasses.dataclass
class Progress:
    """How far runs that train side by side are. A checkpoint holds it as JSON.

    Attributes:
      regularizer, runs: what trains. A run can be there twice, to fill a device.
      step: the number of steps taken.
      loss_sums: of each run, the sum of the losses of the epoch so far.
      losses, scores: [epoch][run], the mean loss and the validation score of every epoch. A batch's
        loss is the mean over its targets, so targets in a batch with few of them weigh a little
        more.
      seconds, compile_seconds: the time spent to train and to compile, in all starts together.
    """

    regularizer: str
    runs: list[Run]
    step: int = 0
    loss_sums: list[float] = dataclasses.field(default_factory=list)
    losses: list[list[float]] = dataclasses.field(default_factory=list)
    scores: list[list[float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    compile_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.loss_sums = self.loss_sums or [0.0] * len(self.runs)

    def add(self, losses: np.ndarray) -> None:
        """Adds the losses of some steps: [run, step]."""
        for step in losses.T.tolist():  # in this order, however calls split the steps
            self.loss_sums = [
                total + loss for total, loss in zip(self.loss_sums, step, strict=True)
            ]
        self.step += losses.shape[1]

    def end_epoch(self, steps: int, scores: np.ndarray) -> None:
        """Ends an epoch of so many steps with the validation score of each run."""
        self.losses.append([total / steps for total in self.loss_sums])
        self.scores.append(scores.tolist())
        self.loss_sums = [0.0] * len(self.runs)

    def last_epoch(self) -> list[dict[str, float]]:
        """Returns the numbers of the last epoch of each run."""
        pairs = zip(self.losses[-1], self.scores[-1], strict=True)
        return [
            {"epoch": len(self.scores), "epoch_loss": loss, "validation_score": score}
            for loss, score in pairs
        ]

    @property
    def name(self) -> str:
        """The regularizer, and the rates and seeds that train."""
        runs = dict.fromkeys(f"rate {run.rate:g}, seed {run.seed}" for run in self.runs)
        return f"{self.regularizer} ({'; '.join(runs)})"

    @property
    def rates_and_seeds(self) -> str:
        """The rates and the seeds that train, in a few characters."""
        rates = dict.fromkeys(f"{run.rate:g}" for run in self.runs)
        seeds = dict.fromkeys(str(run.seed) for run in self.runs)
        return f"rate {', '.join(rates)}  seed {', '.join(seeds)}"

    def ends(self, best_epochs: np.ndarray, patience: int) -> np.ndarray:
        """Returns the epoch at which each run ends if nothing improves from here on.

        A run still trains while fewer epochs are done. It ends when none of `patience` epochs after
        its best one was better, or when it diverges: when its loss or score is not finite.
        """
        shape = (len(self.scores), len(self.runs))
        finite = [np.isfinite(values).reshape(shape) for values in (self.losses, self.scores)]
        wrong = np.vstack([~np.logical_and(*finite), np.ones(len(self.runs), bool)])
        return np.minimum(best_epochs + patience, 1 + wrong.argmax(0))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Rebuilds the progress of a checkpoint."""
        return cls(**{**values, "runs": [Run(*run) for run in values["runs"]]})


def out_of_patience(epoch: Any, best_epoch: Any, patience: int) -> Any:
    """Returns whether none of the last `patience` epochs was the best."""
    return epoch - best_epoch >= patience


def choose_rate(records: list[Record], higher_is_better: bool) -> float | None:
    """Returns the rate with the best mean validation score, and the lowest of equal ones.

    A rate with a run that diverged in training cannot be chosen. None if no rate is left.
    """
    scores = defaultdict(list)
    for record in records:
        scores[record["rate"]].append(record["validation_score"])
    means = {rate: np.mean(of) for rate, of in sorted(scores.items()) if None not in of}
    best = max if higher_is_better else min
    return best(means, key=lambda rate: means[rate]) if means else None


def record(
    progress: Progress,
    lane: int,
    end: int,
    best_epoch: int,
    test: float,
    measures: dict[str, np.ndarray],
) -> Record:
    """Returns the record of a run that ended with the epoch `end`: that of progress.runs[lane].

    Scores that are not finite become None, because JSON has no NaN. Later epochs, in which the run
    waited for the others, do not count. Runs side by side share the seconds.
    """
    run, epochs = progress.runs[lane], min(len(progress.scores), end)
    losses = [finite_or_none(losses[lane]) for losses in progress.losses[:epochs]]
    scores = [finite_or_none(scores[lane]) for scores in progress.scores[:epochs]]
    diverged = None in losses or None in scores
    return {
        "rate": run.rate,
        "seed": run.seed,
        "epochs": epochs,
        "best_epoch": best_epoch,
        "diverged": diverged or finite_or_none(test) is None,
        "validation_score": None if diverged else scores[best_epoch - 1],
        "validation_curve": scores,
        "train_loss": losses,
        "test_score": None if diverged else finite_or_none(test),
        "measures": {name: _rounded(value) for name, value in measures.items()},
        "seconds": progress.seconds / len(set(progress.runs)),
        "compile_seconds": progress.compile_seconds / len(set(progress.runs)),
    }


def _rounded(values: Any) -> Any:
    """Returns a number or nested lists with 6 digits, to keep the results small."""
    if np.ndim(values):
        return [_rounded(part) for part in values]
    return finite_or_none(float(f"{values:.6g}"))


def finite_or_none(value: Any) -> float | None:
    """Returns a Python number, or None for NaN and infinities."""
    return np.asarray(value).item() if np.isfinite(value) else None
