"""The end of a run: the best epoch is evaluated and becomes a bundle and a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ray.train
import torch

from covseg_ray.config import Job
from covseg_ray.engine.bundles import save_bundle
from covseg_ray.engine.evaluate import Evaluation, evaluate
from covseg_ray.engine.tracking import read_history
from covseg_ray.engine.worker import STATE_FILE
from covseg_ray.reports.page import evaluation_report, training_report
from covseg_ray.segmentation.bundle import Bundle, BundleSpec, TrainedOn
from covseg_ray.storage.filesystem import join, write_bytes
from covseg_ray.storage.reading import read_info

BUNDLE = "bundle"
REPORT = "report.html"
METRICS_HOW = "covseg-ray evaluate on split val; 95 % intervals from 1,000 bootstrap resamples of the films"


def finish(job: Job, folder: str, checkpoint: ray.train.Checkpoint, train_images: int) -> None:
    """Evaluate the best epoch on the validation films, then write the report and, last, the bundle."""
    with checkpoint.as_directory() as local:
        state = torch.load(Path(local, STATE_FILE), map_location="cpu", weights_only=True)["network"]
    spec = describe(job, train_images)
    evaluation = evaluate(Bundle(spec, state), job.data.dataset, "val", job.data.labels, job.fewest_workers)
    bundle = Bundle(spec.model_copy(update={"metrics": dict(evaluation.metrics), "metrics_how": METRICS_HOW}), state)
    page = training_report(
        title=job.name,
        history=read_history(folder),
        metrics=intervals(evaluation),
        films=evaluation.films,
        facts=facts(bundle, job.data.dataset, "val", job.data.labels, evaluation) | recipe(job),
        select=job.train.select,
        ious=evaluation.infected_ious,
    )
    write_bytes(join(folder, REPORT), page.encode())
    save_bundle(join(folder, BUNDLE), bundle)


def describe(job: Job, train_images: int) -> BundleSpec:
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
        ),
    )


def evaluation_page(
    bundle: Bundle, dataset: str, split: str, labels: Sequence[str] | None, evaluation: Evaluation
) -> str:
    """The report of a model on films, as HTML."""
    return evaluation_report(
        title=f"{bundle.spec.architecture} {bundle.spec.encoder} on {split}",
        metrics=intervals(evaluation),
        films=evaluation.films,
        facts=facts(bundle, dataset, split, labels, evaluation),
        ious=evaluation.infected_ious,
    )


def intervals(evaluation: Evaluation) -> dict[str, tuple[float, float, float]]:
    return {name: (e.value, e.low, e.high) for name, e in evaluation.metrics.items()}


def facts(
    bundle: Bundle, dataset: str, split: str, labels: Sequence[str] | None, evaluation: Evaluation
) -> dict[str, str]:
    """What the numbers of a report were measured on, for its table of facts."""
    trained = bundle.spec.trained_on
    return {
        "Model": f"{bundle.spec.architecture} with {bundle.spec.encoder}, id {bundle.model_id}",
        "Measured on": f"{dataset}, split {split}, {', '.join(labels) if labels else 'all labels'}",
        "Films": f"{len(evaluation.image_ids)}",
        "Dataset digest": read_info(dataset).digest,
        "Trained on": f"{trained.images} films of {trained.dataset} ({', '.join(trained.labels)})" if trained else "",
    }


def recipe(job: Job) -> dict[str, str]:
    train = job.train
    return {
        "Recipe": f"{train.epochs} epochs, batch {train.batch_size}, {train.optimizer} at {train.learning_rate:g} "
        f"({train.schedule}), {train.loss}, augmentation {train.augment}",
        "Workers": f"{job.workers}, seed {job.seed}",
    }
