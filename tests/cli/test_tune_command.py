"""``covseg-ray tune``: what a user can get wrong, each reported in one line with its exit code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from covseg_ray.cli.main import main

JOB = 'model.encoder = "resnet18"\nmodel.encoder_weights = "none"\n'


@pytest.mark.parametrize(
    ("search", "settings", "code", "message"),
    [
        ("", [], 2, "error: the job has no [[search]]"),
        ('key = "train.learning_rat"\nlow = 1\nhigh = 2', [], 2, "did you mean train.learning_rate?"),
        ('key = "train.epochs"\nlow = 3\nhigh = 2', [], 2, "job.toml: train.epochs: low must be less than high"),
        (
            'key = "train.optimizer"\nchoose = ["sgd"]',
            [],
            2,
            'train.optimizer = "sgd" makes no job: key train.optimizer',
        ),
        ('key = "train.epochs"\nlow = 1\nhigh = 2', [], 2, "data.dataset is not set"),
        ('key = "train.epochs"\nlow = 1\nhigh = 2', ["data.dataset=nowhere"], 1, "nowhere: no dataset there"),
        ('key = "train.epochs"\nlow = 1\nhigh = 2', ["tune.trail=3"], 2, "unknown key tune.trail"),
        ('key = "train.epochs"\nlow = 1\nhigh = 2', ["tune.trials=0"], 2, "key tune.trials"),
        ('key = "train.epochs"\nlow = 1\nhigh = 2', ["tune.reduction=1"], 2, "key tune.reduction"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(
    search: str,
    settings: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.toml").write_text(JOB + (f"[[search]]\n{search}\n" if search else ""))
    words = [word for setting in settings for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["covseg-ray", "tune", "-c", "job.toml", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, errors = capsys.readouterr()
    assert (ended.value.code, out, errors.count("\n")) == (code, "", 1), errors
    assert message in errors
    assert [each.name for each in tmp_path.iterdir()] == ["job.toml"]


def test_train_sends_a_job_with_a_search_to_tune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.toml").write_text(f'out = "{tmp_path}"\n[[search]]\nkey = "train.loss"\nchoose = ["dice"]\n')
    monkeypatch.setattr(sys, "argv", ["covseg-ray", "train", "-c", str(tmp_path / "job.toml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, "covseg-ray tune runs it" in capsys.readouterr().err) == (2, True)
