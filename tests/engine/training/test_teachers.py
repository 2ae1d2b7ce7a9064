"""Teachers' maps: computed once, found by unit, learned; and which teachers are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from random_models import WITH_LUNGS, random_model
from teachers import mean_maps, probabilities
from training_runs import RecordedProgress, Run, run_job

from covseg_ray.config import train as config
from covseg_ray.engine.bundle_io import load_bundle, save_bundle
from covseg_ray.engine.training import loader, sampling
from covseg_ray.engine.training.initial import initial_network
from covseg_ray.engine.training.learner import build_learner
from covseg_ray.engine.training.run import find_films, train
from covseg_ray.engine.training.split import Source, cache
from covseg_ray.engine.training.teachers import load_teachers, taught
from covseg_ray.errors import UsageError
from covseg_ray.segmentation.network.bundle import Bundle, Int8
from covseg_ray.segmentation.network.graph import BIN, XML, Graph
from covseg_ray.segmentation.training.losses import build_loss, soft_loss
from covseg_ray.storage.datasets.read import read_unit
from covseg_ray.storage.runs.teacher_maps import read_maps

pytestmark = pytest.mark.timeout(900)

TWO = ("background", "infection")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("teachers")
    for seed in (11, 12):
        save_bundle(str(folder / str(seed)), random_model(seed, TWO))
    return [str(folder / str(seed)) for seed in (11, 12)]


def with_teachers(small_job: Sequence[str], teachers: Sequence[str]) -> list[str]:
    return [*small_job, "model.teachers=[" + ", ".join(f'"{each}"' for each in teachers) + "]"]


def written_at(folder: str) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def source(ray_session: None, small_job: list[str], teachers: list[str], tmp_path_factory: pytest.TempPathFactory):
    """The training films with the maps of both teachers."""
    job = config.load(None, with_teachers(small_job, teachers))
    folder = str(tmp_path_factory.mktemp("maps"))
    return taught(find_films(job, "train"), load_teachers(job), folder, 2, lambda done, total: None)


def test_each_unit_has_the_mean_of_the_teachers_and_their_mirror_images(source: Source, teachers: list[str]) -> None:
    models = [load_bundle(uri) for uri in teachers]
    assert len(source.units) > 4
    for number, unit in enumerate(source.units):
        expected = mean_maps(models, read_unit(source.dataset, unit).images_NHW)
        assert np.abs(read_maps(source.maps, number) - expected).max() <= 1


def test_only_missing_maps_are_computed(
    source: Source, small_job: list[str], teachers: list[str], tmp_path: Path
) -> None:
    job = config.load(None, with_teachers(small_job, teachers))
    films, before, lost = find_films(job, "train"), written_at(source.maps), Path(source.maps, "00002.parquet")
    content, reported = lost.read_bytes(), list[tuple[int, int]]()
    lost.unlink()
    again = taught(films, load_teachers(job), str(Path(source.maps).parent), 2, lambda *films: reported.append(films))
    after, missing = written_at(again.maps), len(films.units[2].rows)
    assert again == source
    assert lost.read_bytes() == content
    assert {name for name in after if after[name] != before[name]} == {lost.name}
    assert reported == [(films.rows - missing, films.rows), (films.rows, films.rows)]


def test_maps_of_other_teachers_or_films_are_never_used(
    source: Source, small_job: list[str], teachers: list[str], phantoms: str
) -> None:
    folder = str(Path(source.maps).parent)
    one = config.load(None, with_teachers(small_job, teachers[:1]))
    label = next(iter(read_labels(phantoms)))
    some = config.load(None, [*with_teachers(small_job, teachers), f'data.labels=["{label}"]'])
    for job in (one, some):
        films = find_films(job, "train")
        other = taught(films, load_teachers(job), folder, 2, lambda done, total: None)
        assert other.maps != source.maps
        assert len(written_at(other.maps)) == len(films.units)


def read_labels(dataset: str) -> dict[str, int]:
    from covseg_ray.storage.datasets.read import read_info

    return read_info(dataset).splits["train"]


@pytest.mark.parametrize("cached", [False, True])
def test_every_worker_gets_the_maps_of_its_films(source: Source, cached: bool) -> None:
    sizes = [len(unit.rows) for unit in source.units]
    every = np.concatenate([read_maps(source.maps, unit) for unit in range(len(sizes))])
    portions = [p for epoch in (1, 2) for p in sampling.shuffled_share(sizes, 9, epoch, 1, 2, 16)]
    films = cache(source) if cached else source
    batches = list(loader.batches(films, portions, 8, torch.device("cpu"), shuffle_seed=9))
    assert len(batches) == 10
    for batch in batches:
        assert batch.maps_NCHW is not None
        assert np.array_equal(batch.maps_NCHW.numpy(), every[batch.rows_N.numpy()])


def test_the_teachers_have_their_share_of_the_loss() -> None:
    job = config.load(None, ["model.encoder=tu-test_resnet", "model.encoder_weights=none", "train.soft=0.25"])
    made = build_learner(job, 1, initial_network(job).state_dict(), torch.device("cpu"), wrap=lambda network: network)
    generator = torch.Generator().manual_seed(0)
    images, masks, maps = (
        torch.randint(0, high, shape, dtype=torch.uint8, generator=generator)
        for high, shape in ((256, (2, 64, 64)), (2, (2, 64, 64)), (256, (2, 1, 64, 64)))
    )
    made.network.eval()
    logits, loss = made.trained(images, masks, maps)
    hard = build_loss("focal+jaccard")(logits, masks.long())
    assert loss.item() == pytest.approx(0.75 * hard.item() + 0.25 * soft_loss(logits, maps).item(), rel=1e-6)
    assert made.validated(images, masks)[1].item() == pytest.approx(hard.item(), rel=1e-6)
    assert abs(loss.item() - hard.item()) > 0.01


@pytest.fixture(scope="module")
def run(ray_session: None, small_job: list[str], teachers: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that learns from one teacher alone."""
    out = tmp_path_factory.mktemp("taught")
    return run_job([*with_teachers(small_job, teachers[:1]), "train.soft=1", "train.learning_rate=0.01", f"out={out}"])


def test_a_run_computes_its_maps_first_and_names_its_teachers(run: Run, teachers: list[str]) -> None:
    (folder,) = Path(run.folder, "teachers").iterdir()
    assert len(list(folder.iterdir())) == len(find_films(run.job, "train").units)
    assert run.progress.maps[0] == (0, 80)
    assert run.progress.maps[-1] == (80, 80)
    taught_by = load_bundle(teachers[0]).model_id
    seen = load_bundle(run.outcome.bundle).spec.trained_on
    assert seen is not None
    assert seen.teachers == (taught_by,)
    assert (
        f"the probabilities that its teachers give: `{taught_by}`." in Path(run.folder, "bundle/README.md").read_text()
    )


def test_a_run_learns_its_teachers_masks(run: Run, teachers: list[str]) -> None:
    """Films of the validation split, which no teacher's map was made of."""
    start = Bundle(load_bundle(run.outcome.bundle).spec, initial_network(run.job).state_dict())
    films = find_films(run.job, "val")
    images = np.concatenate([films.films(unit).images_NHW for unit in range(len(films.units))])
    found, before, truth = (
        infected(model, images) for model in (load_bundle(run.outcome.bundle), start, load_bundle(teachers[0]))
    )
    assert iou(found, truth) > iou(before, truth) + 0.1


def infected(model: Bundle, images_NHW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = probabilities(model, images_NHW)[:, 1] > 0.5
    return found


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_run_with_other_teachers_is_another_run(run: Run, small_job: list[str], teachers: list[str]) -> None:
    same = [f"out={run.job.out}", "train.learning_rate=0.01"]
    for change, named in (
        ([*with_teachers(small_job, teachers[1:]), "train.soft=1"], "model.teachers was"),
        ([*with_teachers(small_job, teachers[:1]), "train.soft=0.5"], "train.soft was 1.0, is 0.5"),
        ([*small_job, "train.soft=1"], "model.teachers was"),
    ):
        with pytest.raises(UsageError, match=named):
            train(config.load(None, [*change, *same]), RecordedProgress())


def int8(model: Bundle) -> Bundle:
    files = {XML: b"<net/>", BIN: b"0"}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    spec = model.spec.model_copy(update={"int8": Int8(made_of="0", dataset="0", films=1, sha256=digests)})
    return Bundle(spec, model.state, Graph("openvino", files))


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda: random_model(1, WITH_LUNGS), r"has classes \['background', 'lung', 'infection'\] and the job \['back"),
        (lambda: random_model(1, TWO[::-1]), r"has classes \['infection', 'background'\] and the job \['background'"),
        (lambda: random_model(1, TWO, 96), "has input_size 96 and the dataset 64; pack the films as it wants, or"),
        (lambda: letterboxed(random_model(1, TWO)), "has resize 'letterbox' and the dataset 'stretch'"),
        (lambda: int8(random_model(1, TWO)), "is an 8-bit model; take the model that it was exported from"),
    ],
    ids=["classes", "order", "size", "resize", "int8"],
)
def test_a_teacher_that_does_not_fit_is_refused(small_job: list[str], tmp_path: Path, teacher, message: str) -> None:
    save_bundle(str(tmp_path / "bundle"), teacher())
    job = config.load(None, [*with_teachers(small_job, [f"{tmp_path}/bundle"]), f"out={tmp_path}"])
    with pytest.raises(UsageError, match=rf"model\.teachers: .*{message}"):
        train(job, RecordedProgress())
    assert not (tmp_path / "small").exists()


def letterboxed(model: Bundle) -> Bundle:
    return Bundle(model.spec.model_copy(update={"resize": "letterbox"}), model.state)
