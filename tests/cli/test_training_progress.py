from __future__ import annotations

import io
import re
import subprocess
import sys

from terminals import shown_on_a_terminal

from covseg_ray.cli.training.progress import TrainingProgress

RECORD = {"epoch": 2, "loss": 0.25, "val_loss": 0.5, "iou_two_class": 0.4, "images_per_second": 13.24, "seconds": 140.2}
SHOW = f"""
from covseg_ray.cli.training.progress import TrainingProgress
with TrainingProgress() as progress:
    progress.update(1, 10, 2, 5, 13.24, 0.25)
    progress.epoch_done({RECORD!r}, 0.45)
    progress.update(2, 10, 3, 5, 14.5, 0.125)
"""


def test_away_from_a_terminal_an_epoch_is_one_plain_line() -> None:
    out = io.StringIO()
    with TrainingProgress(file=out) as progress:
        for step in range(1, 11):
            progress.update(step, 10, 2, 5, 13.24, 0.25)
        progress.epoch_done(RECORD, 0.45)
    assert out.getvalue() == (
        "epoch 2/5 · loss 0.2500 · val_loss 0.5000 · iou_two_class 0.4000 (best 0.4500) · 13.2 images/s · 140 s\n"
    )


def test_maps_of_teachers_are_counted_before_the_first_epoch() -> None:
    out, now = io.StringIO(), iter(range(0, 1000, 20))
    with TrainingProgress(file=out, clock=lambda: next(now)) as progress:
        for films in (0, 1200, 2400, 3728):
            progress.maps_done(films, 3728)
    assert out.getvalue() == "teachers' maps · 1,200/3,728 films\nteachers' maps · 3,728/3,728 films\n"


def test_standard_output_stays_free() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_a_terminal_of_80_columns_shows_speed_loss_scores_and_a_bar() -> None:
    shown = shown_on_a_terminal(SHOW)
    assert "epoch 3/5 · 14.5 images/s · loss 0.125 · IoU 0.400, best 0.450 · 0:0" in shown
    assert len(max(re.findall("[━╸]+", shown), key=len)) == 80 * 22 // 50
