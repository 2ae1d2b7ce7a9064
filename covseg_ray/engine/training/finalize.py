"""The end of a run: evaluate the best epoch, write its bundle and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ray.train
import torch

from covseg_ray.config.train import Job
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.engine.evaluation.report import METRICS_HOW, facts, findings, intervals
from covseg_ray.engine.evaluation.run import evaluate, measured
from covseg_ray.engine.training.checkpoint import STATE_FILE
from covseg_ray.engine.training.tracking import read_history
from covseg_ray.reports.page import model_report
from covseg_ray.segmentation.network.bundle import Bundle, BundleSpec, TrainedOn
from covseg_ray.storage.datasets.read import Subset, read_info
from covseg_ray.storage.filesystem import join, write_bytes

BUNDLE = "bundle"
REPORT = "report.html"


def finalize(
    job: Job, folder: str, checkpoint: ray.train.Checkpoint, train_images: int, teachers: Sequence[Bundle]
) -> None:
    """Evaluate the best epoch on the validation films, then write the report and, last, the bundle."""
    with checkpoint.as_directory() as local:
        state = torch.load(Path(local, STATE_FILE), map_location="cpu", weights_only=True)["kept"]
    spec, how = describe(job, train_images, teachers), METRICS_HOW.format(split="val")
    films = Subset(job.data.dataset, "val", job.data.labels)
    evaluation = evaluate(Bundle(spec, state), films, job.fewest_workers)
    bundle = measured(Bundle(spec, state), evaluation, how)
    page = model_report(
        title=job.name,
        history=read_history(folder),
        metrics=intervals(evaluation.metrics),
        films=evaluation.films,
        facts=facts(bundle, films, evaluation) | recipe(job),
        select=job.train.select,
        ious=evaluation.infected_ious,
        findings=findings({"model": evaluation}),
    )
    write_bytes(join(folder, REPORT), page.encode())
    save_bundle(join(folder, BUNDLE), bundle)


def describe(job: Job, train_images: int, teachers: Sequence[Bundle]) -> BundleSpec:
    info = read_info(job.data.dataset)
    return BundleSpec(
        architecture=job.model.architecture,
        encoder=job.model.encoder,
        classes=job.model.classes,
        input_size=info.size,
        resize=info.resize,
        trained_on=TrainedOn(
            dataset=job.data.dataset,
            digest=info.digest,
            split="train",
            labels=job.data.labels or tuple(info.splits["train"]),
            images=train_images,
            teachers=tuple(teacher.model_id for teacher in teachers),
        ),
    )


def recipe(job: Job) -> dict[str, str]:
    train, teachers = job.train, job.model.teachers
    return {
        "Recipe": f"{train.epochs} epochs, batch {train.batch_size}, {train.optimizer} at {train.learning_rate:g} "
        f"({train.schedule}), {train.loss}, augmentation {train.augment}",
        "Workers": f"{job.workers}, seed {job.seed}",
    } | ({"Teachers": f"{', '.join(teachers)}; {train.soft:g} of the loss"} if teachers else {})
