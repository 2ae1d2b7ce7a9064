"""The root command. ``python tests/cli/test_main.py`` writes the help texts anew after a wanted change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from covseg_ray import __version__
from covseg_ray.cli.main import app
from covseg_ray.errors import EXIT_SIGINT

HELP = Path(__file__).parent / "help"
WIDTH = 100
HEAVY = ("torch", "ray", "numpy", "pyarrow", "matplotlib", "pydantic", "fsspec")


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


COMMANDS = list(commands(typer.main.get_command(app)))


def render_help(path: tuple[str, ...]) -> str:
    done = CliRunner().invoke(
        app, [*path, "--help"], prog_name="covseg-ray", terminal_width=WIDTH, max_content_width=WIDTH, color=False
    )
    assert done.exit_code == 0, done.output
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip() + "\n"


def snapshot(path: tuple[str, ...]) -> Path:
    return HELP / f"{'-'.join(('covseg-ray', *path))}.txt"


def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "covseg_ray", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | changes,
    )


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_words_and_options_are_a_contract(path: tuple[str, ...]) -> None:
    if "UPDATE_HELP" in os.environ:
        snapshot(path).write_text(render_help(path), encoding="utf-8")
    assert render_help(path) == snapshot(path).read_text(encoding="utf-8")


def test_no_help_text_is_left_of_a_command_that_went() -> None:
    assert {file.name for file in HELP.iterdir()} == {snapshot(path).name for path in COMMANDS}


def test_every_option_and_command_has_a_help_text() -> None:
    def bare(command: Any, name: str) -> Iterator[str]:
        if not command.help:
            yield name
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.help:
                yield f"{name} {parameter.name}"
        for key, below in getattr(command, "commands", {}).items():
            yield from bare(below, f"{name} {key}")

    assert list(bare(typer.main.get_command(app), "covseg-ray")) == []


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, covseg_ray.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_within_half_a_second_of_processor_time() -> None:
    def seconds() -> float:
        before = os.times()
        assert run("--help").returncode == 0
        after = os.times()
        return (after.children_user - before.children_user) + (after.children_system - before.children_system)

    assert min(seconds() for _ in range(3)) < 0.5


def test_version() -> None:
    assert run("--version").stdout == f"covseg-ray {__version__}\n"


def test_a_users_mistake_is_one_line_and_its_exit_code() -> None:
    done = run("config", "show", "--set", "train.epoch=[bold]3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "train.epochs" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_option_is_a_usage_error() -> None:
    done = run("doctor", "--strange")
    assert done.returncode == 2
    assert "--strange" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_leaves_without_a_traceback(tmp_path: Path) -> None:
    pipe = tmp_path / "job.toml"
    os.mkfifo(pipe)  # nothing is ever written: the command waits for its job until it is interrupted
    process = subprocess.Popen(
        [sys.executable, "-m", "covseg_ray", "config", "show", "-c", str(pipe)], stderr=subprocess.PIPE, text=True
    )
    writer = os.open(pipe, os.O_WRONLY)  # returns once the command has opened its job file
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    os.close(writer)
    assert process.returncode == EXIT_SIGINT
    assert "Traceback" not in errors


if __name__ == "__main__":
    HELP.mkdir(exist_ok=True)
    for outdated in HELP.glob("*.txt"):
        outdated.unlink()
    for each in COMMANDS:
        snapshot(each).write_text(render_help(each), encoding="utf-8")
