"""``covseg-ray demo``: the whole way on phantoms, with nothing to bring."""

from __future__ import annotations

import time
from typing import Annotated

import typer


def demo(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where everything goes.")] = "covseg-demo",
) -> None:
    """Draw phantoms, train on them, measure and outline new ones: no data, network or account needed."""
    from covseg_ray.engine import demo as engine
    from covseg_ray.reports.progress import TrainingProgress

    begin = time.perf_counter()
    with TrainingProgress() as progress:
        done = engine.demo(out, progress, lambda line: typer.echo(line, err=True))
    score = done.outcome.metrics["iou_pooled"]
    typer.echo(
        f"""
done in {time.perf_counter() - begin:.0f} s: infection IoU {score.value:.3f} on phantoms the model had not seen
report    {done.outcome.report}
outlined  {done.outlined[0]} and {len(done.outlined) - 1} more
model     {done.outcome.bundle}

what to try next
  covseg-ray data show {out}/dataset --out films.png
  covseg-ray evaluate {done.outcome.bundle} {out}/dataset --report evaluation.html
  covseg-ray data pack FOLDER s3://BUCKET/films       your own films: images/ and masks/, or COVID-QU-Ex
  covseg-ray train -c jobs/train.toml --set data.dataset=s3://BUCKET/films"""
    )
