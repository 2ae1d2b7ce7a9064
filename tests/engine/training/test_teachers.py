"""Teachers' maps: computed once, found by unit, learned; and which teachers are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
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
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.class_probabilities import MeanProbabilities
from covseg_ray.segmentation.network.bundle import Bundle, Int8
from covseg_ray.segmentation.network.graph import BIN, XML, Graph
from covseg_ray.segmentation.training.losses import build_loss, soft_loss
from covseg_ray.storage.datasets.read import read_info, read_unit
from covseg_ray.storage.runs.teacher_maps import read_maps, write_maps

pytestmark = pytest.mark.timeout(900)

TWO = ("background", "infection")
LEARNER = ["model.encoder=tu-test_resnet", "model.encoder_weights=none", "train.precision=fp32"]


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
    last = len(source.units) - 1
    assert last > 4
    for number in (0, 3, last):
        expected = mean_maps(models, read_unit(source.dataset, source.units[number]).images_NHW)
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
    counts = read_info(phantoms).splits["train"]
    some = f'data.labels=["{min(counts, key=lambda label: counts[label])}"]'
    found = {source.maps}
    for chosen in (teachers, teachers[:1]):
        job = config.load(None, [*with_teachers(small_job, chosen), some])
        films = find_films(job, "train")
        assert films.rows < source.rows
        other = taught(films, load_teachers(job), str(Path(source.maps).parent), 2, lambda done, total: None)
        assert len(written_at(other.maps)) == len(films.units)
        found.add(other.maps)
    assert len(found) == 3


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
    job = config.load(None, [*LEARNER, "train.soft=0.25"])
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
    """A run of one epoch that learns from one teacher alone."""
    out = tmp_path_factory.mktemp("taught")
    return run_job([*with_teachers(small_job, teachers[:1]), "train.soft=1", "train.epochs=1", f"out={out}"])


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


@pytest.mark.full
def test_a_run_that_learns_maps_of_the_masks_is_one_that_learns_the_masks(
    ray_session: None, small_job: list[str], teachers: list[str], tmp_path: Path
) -> None:
    """The soft loss is then the hard one: every map has to come to its film, and to be flipped with it."""
    changes = ["train.loss=cross-entropy+film-jaccard", "train.augment=flips", "train.epochs=2"]
    settings = [*with_teachers(small_job, teachers[:1]), *changes, "train.soft=1", f"out={tmp_path}/soft"]
    job = config.load(None, settings)
    films = taught(find_films(job, "train"), load_teachers(job), f"{tmp_path}/soft/small/teachers", 2, print)
    for number, unit in enumerate(films.units):
        there = read_unit(films.dataset, unit)
        write_maps(films.maps, number, there.image_ids, 255 * there.masks_NHW[:, None])
    before = written_at(films.maps)
    soft, hard = run_job(settings), run_job([*small_job, *changes, f"out={tmp_path}/hard"])
    assert soft.progress.maps == [(80, 80)]
    assert written_at(films.maps) == before
    losses = [[record["loss"] for record, _ in each.progress.epochs] for each in (soft, hard)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)
    assert losses[0][1] < losses[0][0]


@pytest.mark.full
def test_a_network_learns_its_teachers_masks() -> None:
    """A teacher with random weights, whose masks are others than those of the films."""
    job = config.load(None, [*LEARNER, "train.soft=1", "train.learning_rate=0.003", "train.average=0.9", "seed=3"])
    made = build_learner(job, 1, initial_network(job).state_dict(), torch.device("cpu"), wrap=lambda network: network)
    made.network.train()
    phantoms, teacher = [make_phantom(7, index, 64) for index in range(8)], random_model(11, TWO)
    images_NHW, masks_NHW = (np.stack(each) for each in zip(*((p.image, p.infection) for p in phantoms), strict=True))
    maps_NCHW = MeanProbabilities([teacher], "cpu").predict(images_NHW)

    def iou() -> float:
        spec = teacher.spec.model_copy(update={"encoder": job.model.encoder})
        found = probabilities(Bundle(spec, made.kept.state_dict()), images_NHW)[:, 1] > 0.5
        return float((found & (maps_NCHW[:, 0] >= 128)).sum() / (found | (maps_NCHW[:, 0] >= 128)).sum())

    before = iou()
    for _ in range(50):
        made.step(*(torch.from_numpy(each) for each in (images_NHW, masks_NHW, maps_NCHW)))
    assert iou() > before + 0.15


def test_a_run_with_other_teachers_is_another_run(run: Run, small_job: list[str], teachers: list[str]) -> None:
    same = [f"out={run.job.out}", "train.epochs=1"]
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
