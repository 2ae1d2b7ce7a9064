"""cluster/README.md names files that are there and commands that exist."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer
from places import ROOT

from covseg_ray.cli.main import app

README = (ROOT / "cluster/README.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()]


def test_the_files_that_it_names_are_there() -> None:
    named = set(re.findall(r"(?<![\w/.-])cluster/[\w./-]+\.(?:yaml|conf|sh|json)|cluster/docker/Dockerfile", README))
    named |= {
        f"cluster/{path}" for path in re.findall(r"^#+ .*`([\w./-]+\.\w+|docker/Dockerfile)`", README, flags=re.M)
    }
    assert len(named) >= 6
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("line", sorted({line for line in LINES if line.startswith("covseg-ray ")}))
def test_its_commands_parse(line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), "no such command"
    command.make_context(line, words)
