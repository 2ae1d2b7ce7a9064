"""What the screen shows of a search."""

from __future__ import annotations

import io
from collections.abc import Sequence

from terminals import shown_on_a_terminal

from covseg_ray.cli.training.progress import SearchProgress
from covseg_ray.reports.trial_result import FINISHED, STOPPED, TrialResult


def trial(number: int, rate: float, loss: str, scores: Sequence[float], ended: str) -> TrialResult:
    history = [{"epoch": epoch, "iou_all": score} for epoch, score in enumerate(scores, start=1)]
    return TrialResult(number, {"train.learning_rate": rate, "train.loss": loss}, 3, history, ended)


RESULTS = [
    trial(1, 0.001, "dice", (0.1, 0.5, 0.4), FINISHED),
    trial(2, 0.1, "<b>&", (0.2,), STOPPED),
    trial(3, 0.01, "dice", (0.3, 0.6, 0.7), FINISHED),
]


def show(progress: SearchProgress) -> None:
    with progress:
        progress.begin([RESULTS[0], *(trial(n, 0.1, "<b>&", (), "") for n in (2, 3))])
        progress.epoch_done(2, {"epoch": 1, "iou_all": 0.2})
        progress.ended(RESULTS[1])
        progress.epoch_done(3, {"epoch": 1, "iou_all": 0.3})
        progress.ended(RESULTS[2])
        progress.finishing(RESULTS[2])


def test_away_from_a_terminal_the_table_grows_line_by_line() -> None:
    out = io.StringIO()
    show(SearchProgress("iou_all", out))
    assert out.getvalue().splitlines() == [
        "trial  learning_rate  loss  epochs  iou_all  ended",
        "1      0.001          dice  3/3     0.5000   finished",
        "trial 2 epoch 1/3 · iou_all 0.2000",
        "2      0.1            <b>&  1/3     0.2000   stopped early",
        "trial 3 epoch 1/3 · iou_all 0.3000",
        "3      0.01           dice  3/3     0.7000   finished",
        "trial 3 is the best; its model is measured and kept",
    ]


PROGRAM = """
from covseg_ray.cli.training.progress import SearchProgress
from covseg_ray.reports.trial_result import TrialResult
import time
with SearchProgress("iou_all") as progress:
    progress.begin([TrialResult(n, {"train.loss": "dice"}, 3, [], "") for n in (1, 2)])
    progress.epoch_done(1, {"epoch": 2, "iou_all": 0.25})
    time.sleep(0.3)
"""


def test_on_a_terminal_a_live_line_names_the_trials_that_run() -> None:
    shown = shown_on_a_terminal(PROGRAM)
    assert "trial 1 epoch 2/3" in shown
    assert "best 0.2500" in shown
    assert "iou_all 0.2500" not in shown
