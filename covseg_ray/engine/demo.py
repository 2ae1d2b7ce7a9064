"""Everything once, on phantoms: films are drawn, packed, trained on by two workers, measured, and new ones outlined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from covseg_ray.config import Data, Job, Model, Train
from covseg_ray.engine.bundles import load_bundle
from covseg_ray.engine.runtime import session
from covseg_ray.engine.train import Outcome, Progress, train
from covseg_ray.radiograph.encode import encode_png
from covseg_ray.radiograph.geometry import restore_mask, standardise
from covseg_ray.radiograph.masks import encode_png1, overlay
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.predictor import Predictor
from covseg_ray.storage.filesystem import exists, join, write_bytes
from covseg_ray.storage.packing import synthesise
from covseg_ray.storage.shards import DATASET_FILE

FILMS = 250
SIDE = 128
SEED = 0
NEW_FILMS = 6
NEW_FILM_SIDE = 512
NEW_FILM_SEED = 1
WORKERS = 2


@dataclass(frozen=True)
class Demo:
    """``outlined`` are the new films with the found infection drawn on them."""

    outcome: Outcome
    outlined: tuple[str, ...]


def demo(out: str, progress: Progress, say: Callable[[str], None]) -> Demo:
    """Run it all below ``out``; what is there of an earlier run is not done again."""
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
    with session(workers=WORKERS):
        outcome = train(job, progress)
    say(f"outlining {NEW_FILMS} new films of {NEW_FILM_SIDE} x {NEW_FILM_SIDE} pixels")
    return Demo(outcome, outline_new_films(outcome.bundle, out))


def outline_new_films(bundle_uri: str, out: str) -> tuple[str, ...]:
    """Draw films that the model has not seen, and write each with its mask at its own size and as an overlay."""
    bundle = load_bundle(bundle_uri)
    predictor = Predictor(bundle)
    outlined = []
    for index in range(NEW_FILMS):
        film_HW = make_phantom(NEW_FILM_SEED, index, NEW_FILM_SIDE).image
        square_SS, placement = standardise(film_HW, bundle.spec.input_size, bundle.spec.resize)
        found_SS = predictor.predict(square_SS[None])[0] == bundle.spec.infection
        mask_HW = restore_mask(found_SS.astype("uint8"), placement)
        write_bytes(join(out, "films", f"film-{index}.png"), encode_png(film_HW))
        write_bytes(join(out, "masks", f"film-{index}.png"), encode_png1(mask_HW))
        outlined.append(join(out, "overlays", f"film-{index}.png"))
        write_bytes(outlined[-1], encode_png(overlay(film_HW, mask_HW)))
    return tuple(outlined)
