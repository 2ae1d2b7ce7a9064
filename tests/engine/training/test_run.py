"""Training through Ray Train on phantoms, against what it wrote, what NumPy counts and a plain PyTorch loop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, load_file
from torch.nn import functional as F
from training_runs import RecordedProgress, Run, run_job

from covseg_ray.config import train as config
from covseg_ray.engine.training.run import train
from covseg_ray.errors import DatasetError, UsageError
from covseg_ray.segmentation.network.torchvision_operators import smp
from covseg_ray.storage.datasets.pack import synthesise
from covseg_ray.storage.datasets.read import list_units, read_unit
from covseg_ray.storage.filesystem import list_files, read_bytes

pytestmark = pytest.mark.timeout(900)  # Ray's start alone takes minutes on a machine that is busy


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def records(folder: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in read_bytes(f"{folder}/metrics.jsonl").splitlines()]


def network_input(images_NHW: NDArray[np.uint8]) -> torch.Tensor:
    low, high = (f(images_NHW, axis=(1, 2), keepdims=True).astype(float) for f in (np.min, np.max))
    unit_NHW = (images_NHW - low) / (high - low)
    films_NCHW = ((unit_NHW[..., None] - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    return torch.from_numpy(films_NCHW).to(memory_format=torch.channels_last)


def focal_and_jaccard(logits_NCHW: torch.Tensor, truth_NHW: torch.Tensor) -> torch.Tensor:
    p_NCHW = logits_NCHW.softmax(1)
    y_NCHW = F.one_hot(truth_NHW, 2).permute(0, 3, 1, 2).float()
    focal = (-0.25 * y_NCHW * (1 - p_NCHW) ** 2 * p_NCHW.log()).mean()
    both, sums = (p_NCHW * y_NCHW).sum((0, 2, 3)), (p_NCHW + y_NCHW).sum((0, 2, 3))
    present = y_NCHW.sum((0, 2, 3)) > 0
    return focal + ((1 - (both + 1e-5) / (sums - both + 1e-5)) * present).mean()


def test_a_run_leaves_what_it_promises(undisturbed: Run) -> None:
    files = list_files(undisturbed.folder)
    assert {"metrics.jsonl", "report.html", "job.json", "bundle/model.safetensors", "bundle/model.json"} <= set(files)
    assert any(name.startswith("checkpoints/epoch-0004/") for name in files)
    assert [record["epoch"] for record in records(undisturbed.folder)] == [1, 2, 3, 4]
    assert read_bytes(f"{undisturbed.folder}/report.html").startswith(b"<!doctype html>")


def test_the_outcome_and_the_progress_are_those_of_metrics_jsonl(undisturbed: Run) -> None:
    history = records(undisturbed.folder)
    scores = [record["iou_two_class"] for record in history]
    assert [dict(record) for record, _ in undisturbed.progress.epochs] == history
    assert [best for _, best in undisturbed.progress.epochs] == np.maximum.accumulate(scores).tolist()
    assert undisturbed.outcome.epochs == 4
    assert undisturbed.outcome.best["iou_two_class"] == max(scores)


def test_tensorboard_reads_the_same_numbers(undisturbed: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"{undisturbed.folder}/tensorboard").Reload()
    history = records(undisturbed.folder)
    names = set(history[0]) - {"epoch"}
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        seen = [(event.step, event.value) for event in events.Scalars(name)]
        assert seen == [(record["epoch"], pytest.approx(record[name], rel=1e-6)) for record in history]


def test_validation_is_what_numpy_counts_from_the_bundles_predictions(undisturbed: Run, phantoms: str) -> None:
    network = smp().Unet("tu-test_resnet", encoder_weights=None, classes=2)
    state = load_file(f"{undisturbed.folder}/bundle/model.safetensors")
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    network = network.eval().to(memory_format=torch.channels_last)
    tp = fp = fn = 0
    alarms, healthy = 0, 0
    for unit in list_units(phantoms, "val"):
        films = read_unit(phantoms, unit)
        with torch.inference_mode():
            found_NHW = network(network_input(films.images_NHW)).argmax(1).numpy().astype(bool)
        truth_NHW = films.masks_NHW.astype(bool)
        tp += int((found_NHW & truth_NHW).sum())
        fp += int((found_NHW & ~truth_NHW).sum())
        fn += int((~found_NHW & truth_NHW).sum())
        for found_HW, truth_HW in zip(found_NHW, truth_NHW, strict=True):
            healthy += not truth_HW.any()
            alarms += bool(found_HW.any() and not truth_HW.any())
    best = undisturbed.outcome.best
    assert tp > 0
    assert best["iou_pooled"] == pytest.approx(tp / (tp + fp + fn), abs=1e-3)
    assert best["dice_pooled"] == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-3)
    assert best["false_alarm"] == pytest.approx(alarms / healthy, abs=1e-9)
    for name, estimate in undisturbed.outcome.metrics.items():
        assert estimate.value == pytest.approx(best[name], abs=1e-3), name


@pytest.mark.full
def test_one_worker_has_the_loss_of_a_plain_loop(
    ray_session: None, small_job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At this learning rate the steps change the loss by 0.003. At the usual one Adam's first steps, of one size
    whatever the gradient, blow rounding up to 0.0005 (measured between 1 and 2 threads and two memory formats)."""
    changes = ["workers=1", "train.epochs=1", "train.augment=none", "train.learning_rate=1e-5", "train.average=0"]
    monkeypatch.chdir(tmp_path)
    run = run_job([*small_job, "out=runs", *changes])
    assert (tmp_path / "runs/small/metrics.jsonl").exists()
    torch.manual_seed(3)
    network = (
        smp().Unet("tu-test_resnet", encoder_weights=None, classes=2).train().to(memory_format=torch.channels_last)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
    dataset = run.job.data.dataset
    units = list_units(dataset, "train")
    images, truths = [], []
    for unit in np.random.default_rng((3, 1)).permutation(len(units)):
        films = read_unit(dataset, units[unit])
        order = np.random.default_rng((3, 1, unit)).permutation(len(films.image_ids))
        images.append(films.images_NHW[order])
        truths.append(films.masks_NHW[order])
    losses, shared, either = [], 0, 0
    for start in range(0, 80, 16):
        images_NHW = np.concatenate(images)[start : start + 16]
        truth_NHW = torch.from_numpy(np.concatenate(truths)[start : start + 16].astype(np.int64))
        logits_NCHW = network(network_input(images_NHW))
        loss = focal_and_jaccard(logits_NCHW, truth_NHW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        found_NHW = logits_NCHW.argmax(1)
        shared += int((found_NHW & truth_NHW).sum())
        either += int((found_NHW | truth_NHW).sum())
    (record,) = records(run.folder)
    assert record["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert record["train_iou_pooled"] == pytest.approx(shared / either, abs=1e-3)


@pytest.fixture(scope="module")
def in_bucket(
    ray_session: None, bucket: str, small_job: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, str]:
    """The same job from and to a bucket, reported to MLflow; and where that keeps it."""
    store = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    synthesise(f"{bucket}/phantoms", 100, seed=7, size=64)
    changes = [f"data.dataset={bucket}/phantoms", "data.cache=stream", f"out={bucket}/runs", "name=again"]
    return run_job([*small_job, *changes, f"tracking.mlflow={store}"]), store


@pytest.mark.s3
def test_the_same_seed_from_and_to_a_bucket_gives_the_same_weights(
    undisturbed: Run, in_bucket: tuple[Run, str]
) -> None:
    run, _ = in_bucket
    assert {"metrics.jsonl", "report.html", "bundle/model.json"} <= set(list_files(run.folder))
    again = load(read_bytes(f"{run.folder}/bundle/model.safetensors"))
    first = load_file(f"{undisturbed.folder}/bundle/model.safetensors")
    assert again.keys() == first.keys()
    assert all(np.array_equal(again[key], first[key]) for key in first)
    timed = {"seconds", "train_seconds", "images_per_second", "first_batch_seconds"}
    numbers = [[{k: r[k] for k in r if k not in timed} for r in records(each.folder)] for each in (run, undisturbed)]
    assert numbers[0] == numbers[1]


def test_given_again_a_finished_run_trains_nothing(undisturbed: Run) -> None:
    before = {name: read_bytes(f"{undisturbed.folder}/{name}") for name in list_files(undisturbed.folder)}
    progress = RecordedProgress()
    outcome = train(undisturbed.job, progress)
    assert (progress.epochs, progress.updates) == ([], [])
    assert (outcome.bundle, outcome.best, outcome.metrics) == (
        undisturbed.outcome.bundle,
        undisturbed.outcome.best,
        undisturbed.outcome.metrics,
    )
    assert {name: read_bytes(f"{undisturbed.folder}/{name}") for name in list_files(undisturbed.folder)} == before


@pytest.mark.parametrize(
    ("change", "named"), [("train.learning_rate=0.01", "train.learning_rate was 0.001, is 0.01"), ("seed=4", "seed")]
)
def test_another_job_of_the_same_name_is_refused(
    undisturbed: Run, small_job: list[str], change: str, named: str
) -> None:
    job = config.load(None, [*small_job, f"out={undisturbed.job.out}", change])
    with pytest.raises(UsageError, match=named):
        train(job, RecordedProgress())


def test_fewer_films_than_workers_are_refused_before_ray_starts(small_job: list[str], tmp_path: Path) -> None:
    synthesise(f"{tmp_path}/four", 5, seed=1, size=64)
    job = config.load(
        None, [*small_job, f"data.dataset={tmp_path}/four", f"out={tmp_path}", "workers=5", "train.batch_size=5"]
    )
    with pytest.raises(DatasetError, match="has 4 films, fewer than one global batch of 5 for 5 workers"):
        train(job, RecordedProgress())
    assert list_files(str(tmp_path / "small")) == []


def test_each_epoch_stands_once_in_mlflow(in_bucket: tuple[Run, str]) -> None:
    from mlflow.tracking import MlflowClient

    run, store = in_bucket
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("covseg-ray")
    (logged,) = client.search_runs([experiment.experiment_id])
    for name in ("loss", "iou_two_class"):
        seen = [(metric.step, metric.value) for metric in client.get_metric_history(logged.info.run_id, name)]
        assert seen == [(record["epoch"], record[name]) for record in records(run.folder)]
    assert logged.data.params["train.batch_size"] == "16"
