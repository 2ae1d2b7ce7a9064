"""``covseg-ray demo``: every step on phantoms."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from covseg_ray.cli.options import say


def demo(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Write everything to this folder.")] = "covseg-demo",
) -> None:
    """Generate phantoms, train and evaluate a model, and segment new ones: no data, network or account needed."""
    from covseg_ray.cli.progress import SegmentProgress
    from covseg_ray.cli.training.progress import TrainingProgress
    from covseg_ray.engine import demo as engine
    from covseg_ray.engine.session import session

    begin = time.perf_counter()
    with session(workers=engine.WORKERS):
        with TrainingProgress() as progress:
            outcome = engine.train_on_phantoms(out, progress, say)
        say(f"segmenting {engine.NEW_FILMS} new films of {engine.NEW_FILM_SIDE} x {engine.NEW_FILM_SIDE} pixels")
        with SegmentProgress() as films_progress:
            overlays = engine.segment_new_films(outcome.bundle, out, films_progress)
    score = outcome.metrics["iou_pooled"]
    typer.echo(
        f"""
done in {time.perf_counter() - begin:.0f} s: infection IoU {score.value:.3f} on phantoms not used for training
report   {outcome.report}
results  {overlays[0]} and {len(overlays) - 1} more
model    {outcome.bundle}

next steps
  covseg-ray data show {out}/dataset --out films.png
  covseg-ray results show {out}/segmented
  covseg-ray evaluate {outcome.bundle} {out}/dataset --report evaluation.html
  covseg-ray data pack FOLDER s3://BUCKET/films       your own films: images/ and masks/, or COVID-QU-Ex
  covseg-ray train -c paper --set data.dataset=s3://BUCKET/films"""
    )
