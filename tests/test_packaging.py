"""README, constraints, changelog and the package's metadata say the same as the code."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from importlib.metadata import version
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from places import ROOT

import covseg_ray
from covseg_ray import errors
from covseg_ray.cli.main import app
from covseg_ray.config import train as config
from covseg_ray.reports.metric_words import METRICS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/results.md").read_text(encoding="utf-8")
CHECKED_PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OUR_SYSTEM = {
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
}


def readme_commands(text: str = README) -> list[str]:
    """Each covseg-ray command line of the README: those in code blocks, and those in backticks that are whole."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`(covseg-ray [^`]+)`", text)
    return sorted({line for line in [*lines, *inline] if line.startswith("covseg-ray ")})


def table_rows(first_column_title: str) -> list[list[str]]:
    """The cells of the README's table whose first column has that title."""
    _, _, below = README.partition(f"| {first_column_title} |")
    rows = below.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.parametrize("line", readme_commands() + readme_commands(RESULTS))
def test_the_commands_of_readme_and_results_parse(line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), "no such command"
    command.make_context(line, words)  # raises for an unknown option, a missing argument or a bad value


def test_a_wrong_command_would_not_parse() -> None:
    command: Any = typer.main.get_command(app)
    with pytest.raises(Exception, match="No such option"):
        command.commands["train"].make_context("train", ["-c", "x.toml", "--no-such-option"])


def test_the_readme_shows_each_command() -> None:
    command: Any = typer.main.get_command(app)
    nouns = {name: set(getattr(below, "commands", {})) for name, below in command.commands.items()}
    spoken = " ".join([*readme_commands(), "covseg-ray demo"])
    for noun, verbs in nouns.items():
        for name in {f"covseg-ray {noun} {verb}" for verb in verbs} or {f"covseg-ray {noun}"}:
            assert name in spoken


def test_the_keys_and_defaults_of_the_readme_are_those_of_the_code() -> None:
    told = {key.strip("`"): json.loads(default.strip("`")) for key, default, _ in table_rows("key")}
    flat: dict[str, Any] = {}
    for key, value in config.Job().model_dump(mode="json").items():
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    assert told == flat


def test_the_exit_codes_of_the_readme_are_those_of_the_code() -> None:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.CovsegError)]
    codes = {each.exit_code for each in classes} | {
        code for name, code in vars(errors).items() if name.startswith("EXIT_")
    }
    assert {int(row[0]) for row in table_rows("exit code")} == codes


def test_the_metrics_of_the_readme_are_those_of_the_reports() -> None:
    names = [name for row in table_rows("name") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(names) == sorted(METRICS)


def test_the_files_that_the_readme_points_to_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    named = re.findall(r"(?<![\w/])((?:jobs|tests/bench/peers)/[\w.]+\.(?:toml|py))", README)
    assert links
    assert named
    assert [path for path in [*links, *named] if not (ROOT / path).exists()] == []


def test_the_tests_and_scripts_of_the_results_are_there() -> None:
    named = re.findall(r"(?<![\w/])(?:tests|docs)/[\w/.]+\.(?:py|md)|(?<=\]\()[\w./]+\.md", RESULTS + README)
    assert len(named) > 30
    assert [path for path in named if not any((ROOT / each / path).exists() for each in ("", "docs"))] == []


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make (\w+)`", README)) <= targets


def test_the_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[^\]]*)\]", changelog, flags=re.MULTILINE)
    assert version("covseg-ray") == covseg_ray.__version__ == released[0]


def pins(python: str) -> dict[str, Version]:
    """The pinned version of each package on Linux with that Python."""
    environment = {**OUR_SYSTEM, "python_version": python, "python_full_version": f"{python}.0"}
    found: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(environment):
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert pin.url is None
            assert pin.name not in found, f"{pin.name} has two pins on Python {python}"
            found[canonicalize_name(pin.name)] = Version(specifier.version)
    return found


@pytest.mark.parametrize("python", CHECKED_PYTHONS)
def test_each_direct_dependency_has_a_pin_in_its_range(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(python)
    for text in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"python_version": python}):
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), text


def test_torch_is_pinned_without_a_build() -> None:
    assert {str(pins(python)["torch"]) for python in CHECKED_PYTHONS} == {"2.13.0"}
