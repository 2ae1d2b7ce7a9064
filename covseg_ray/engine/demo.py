"""Everything once, on phantoms: draw and pack films, train with two workers, evaluate, segment new films."""

from __future__ import annotations

from collections.abc import Callable

from covseg_ray.config.train import Data, Job, Model, Train
from covseg_ray.engine.bulk.monitor import Progress as FilmsProgress
from covseg_ray.engine.bulk.run import Request, segment
from covseg_ray.engine.training.run import Outcome, Progress, train
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.storage.datasets.info import DATASET_FILE
from covseg_ray.storage.datasets.pack import synthesise
from covseg_ray.storage.filesystem import exists, join, write_bytes

FILMS = 250
SIDE = 128
SEED = 0
NEW_FILMS = 6
NEW_FILM_SIDE = 512
NEW_FILM_SEED = 1
WORKERS = 2


def train_on_phantoms(out: str, progress: Progress, say: Callable[[str], None]) -> Outcome:
    """Draw films below ``out`` and train on them; what is there of an earlier run is not done again."""
    dataset = join(out, "dataset")
    if not exists(join(dataset, DATASET_FILE)):
        say(f"drawing {FILMS} phantoms, {SIDE} x {SIDE} pixels, into {dataset}")
        synthesise(dataset, FILMS, seed=SEED, size=SIDE)
    job = Job(
        name="run",
        out=out,
        workers=WORKERS,
        data=Data(dataset=dataset),
        model=Model(encoder="resnet18", encoder_weights="none"),
        train=Train(epochs=8, batch_size=16, schedule="one-cycle", augment="flips"),
    )
    say(f"training a U-Net on them with {WORKERS} Ray workers, {job.train.epochs} epochs")
    return train(job, progress)


def segment_new_films(bundle_uri: str, out: str, progress: FilmsProgress) -> tuple[str, ...]:
    """Draw films that the model has not seen, and segment them as any archive."""
    films = join(out, "films")
    names = [f"film-{index}.png" for index in range(NEW_FILMS)]
    for index, name in enumerate(names):
        write_bytes(join(films, name), encode_png(make_phantom(NEW_FILM_SEED, index, NEW_FILM_SIDE).image))
    results = join(out, "segmented")
    segment(Request(films, results, bundle_uri, ("masks", "overlays")), progress)
    return tuple(join(results, "overlays", f"{name}.png") for name in names)
