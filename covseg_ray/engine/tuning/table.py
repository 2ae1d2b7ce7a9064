"""The results of a search's trials: ``trials.csv``, and each trial's own folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from covseg_ray.config.train import Job
from covseg_ray.engine.training.tracking import METRICS_FILE, read_history
from covseg_ray.engine.tuning.plan import Trial
from covseg_ray.reports.trial_result import FAILED, FINISHED, STOPPED, TrialResult, format_value
from covseg_ray.storage.filesystem import exists, join, read_bytes, write_bytes

TABLE = "trials.csv"
TRIALS = "trials"


def in_own_folder(trial: Trial, folder: str) -> Trial:
    """The trial with a folder of its own below that of the search."""
    own = {"out": join(folder, TRIALS), "name": f"{trial.number:04d}"}
    return Trial(trial.number, trial.values, trial.job.model_copy(update=own))


def read_ended(folder: str) -> dict[int, str]:
    """Why each finished or stopped trial ended, by its number. Failed trials are not included: they are tried again."""
    if not exists(join(folder, TABLE)):
        return {}
    rows = csv.DictReader(io.StringIO(read_bytes(join(folder, TABLE)).decode()))
    return {int(row["trial"]): row["ended"] for row in rows if row["ended"] in (FINISHED, STOPPED)}


def result_of(trial: Trial, failure: str = "") -> TrialResult:
    """The result of a trial that has ended, read from its folder."""
    history = history_of(trial.job)
    epochs = trial.job.train.epochs
    ended = f"{FAILED}: {failure}" if failure else FINISHED if len(history) == epochs else STOPPED
    return TrialResult(trial.number, trial.values, epochs, history, ended)


def history_of(job: Job) -> Sequence[Mapping[str, float]]:
    folder = join(job.out, job.name)
    return read_history(folder) if exists(join(folder, METRICS_FILE)) else []


def write_table(folder: str, results: Sequence[TrialResult], select: str) -> None:
    """A row for each trial that has ended: its values, epochs, best epoch and metric, and why it ended."""
    rows = [result.row(select) for result in results if result.ended]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["trial"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else format_value(value) for key, value in row.items()} for row in rows)
    write_bytes(join(folder, TABLE), text.getvalue().encode())
