"""A run's records after each epoch: ``metrics.jsonl``, TensorBoard events, Ray's metrics and, on request, MLflow.

All of it is made from the run's history, which travels in its checkpoints. An epoch that is trained again after a
failure replaces what was written of it, so none stands twice.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from covseg_ray.config.train import Job
from covseg_ray.engine.telemetry import TrainingMetrics
from covseg_ray.errors import UsageError
from covseg_ray.storage.filesystem import join, read_bytes, write_bytes

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
RUN_TAG = "covseg_ray.run"


class Tracker:
    def __init__(self, job: Job) -> None:
        self.folder = join(job.out, job.name)
        self.tensorboard = job.tracking.tensorboard
        self.mlflow = MlflowRun(job) if job.tracking.mlflow else None
        self.metrics = TrainingMetrics(job.name, job.train.select)

    def write(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the run's history, whose last record is new."""
        lines = "".join(json.dumps(dict(record)) + "\n" for record in history)
        write_bytes(join(self.folder, METRICS_FILE), lines.encode())
        if self.tensorboard:
            name = f"events.out.tfevents.{int(history[-1]['epoch']):06d}.covseg-ray"
            write_bytes(join(self.folder, TENSORBOARD_FOLDER, name), tensorboard_events(history[-1]))
        if self.mlflow:
            self.mlflow.write(history)
        self.metrics.epoch(history[-1])


def read_history(folder: str) -> list[dict[str, float]]:
    """The records of a run's ``metrics.jsonl``, an epoch each."""
    return [json.loads(line) for line in read_bytes(join(folder, METRICS_FILE)).splitlines()]


def tensorboard_events(record: Mapping[str, float]) -> bytes:
    """The bytes of an event file that holds one epoch. TensorBoard reads the files of a folder one after the other."""
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for key, value in record.items():
                if key != "epoch":
                    writer.add_scalar(key, value, int(record["epoch"]))
        (events,) = Path(folder).iterdir()
        return events.read_bytes()


class MlflowRun:
    """A run in MLflow's own store, found again by its tag when a training run is resumed."""

    def __init__(self, job: Job) -> None:
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise UsageError(
                "tracking.mlflow is set but MLflow is not installed: pip install 'covseg-ray[mlflow]'"
            ) from None
        self.client = MlflowClient(job.tracking.mlflow)
        experiment = self.client.get_experiment_by_name("covseg-ray")
        identity = experiment.experiment_id if experiment else self.client.create_experiment("covseg-ray")
        folder = join(job.out, job.name)
        found = self.client.search_runs([identity], f"tags.`{RUN_TAG}` = '{folder}'")
        run = found[0] if found else self.client.create_run(identity, tags={RUN_TAG: folder}, run_name=job.name)
        self.run_id = run.info.run_id
        if not found:
            for key in ("preset", "seed", "workers"):
                self.client.log_param(self.run_id, key, getattr(job, key))
            for section in ("data", "model", "train"):
                for key, value in getattr(job, section):
                    self.client.log_param(self.run_id, f"{section}.{key}", value)

    def write(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the epochs that MLflow does not have yet."""
        done = {metric.step for metric in self.client.get_metric_history(self.run_id, "loss")}
        for record in history:
            if int(record["epoch"]) not in done:
                for key, value in record.items():
                    self.client.log_metric(self.run_id, key, value, step=int(record["epoch"]))
