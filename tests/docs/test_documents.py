"""README and every page: commands parse, links lead somewhere, files, tests and make targets that are named exist."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from places import ROOT

from covseg_ray.cli.main import app

README = ROOT / "README.md"
CARD = next(ROOT.glob("**/models/covid-qu-ex/README.md"))
PAGES = sorted(
    {
        README,
        CARD,
        *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "cluster/README.md")),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("benchmarks/**/*.md"),
    }
)
GENERATED = {ROOT / "docs/reference" / name for name in ("commands.md", "job-keys.md", "endpoint.md")}
MOST_LINES, LONGEST_CELL = 150, 120


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def words(path: Path) -> set[str]:
    return set(re.findall(r"\w+", text_of(path)))


def commands(text: str) -> set[str]:
    """Each covseg-ray command line of a page: those of code blocks, and those in backticks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`(covseg-ray [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line for block in blocks for line in block.splitlines()]
    return {" ".join(line.split()) for line in [*lines, *inline] if line.startswith("covseg-ray ")}


@cache
def all_commands() -> dict[str, str]:
    """Every command line of every page, with a page that has it."""
    return {line: page.relative_to(ROOT).as_posix() for page in PAGES for line in commands(text_of(page))}


@cache
def root_command() -> Any:
    return typer.main.get_command(app)


def parse(line: str) -> None:
    """Raises for an unknown command or option, a missing argument or a bad value. A bare name has to exist."""
    command, words = root_command(), shlex.split(line, comments=True)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if words and words[0] != "--version":
        assert not hasattr(command, "commands"), f"no such command: {line}"
        command.make_context(line, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_parse(page: Path) -> None:
    for line in sorted(commands(text_of(page))):
        parse(line)


@pytest.mark.parametrize("line", ["covseg-ray train -c x.toml --no-such-option", "covseg-ray trian -c x.toml"])
def test_a_wrong_command_would_not_parse(line: str) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such"):
        parse(line)


def test_the_pages_show_each_command() -> None:
    shown = " ".join([*all_commands(), "covseg-ray demo"])  # the README runs it by make
    for noun, command in root_command().commands.items():
        names = [f"covseg-ray {noun} {verb}" for verb in getattr(command, "commands", {})] or [f"covseg-ray {noun}"]
        assert [name for name in names if name not in shown] == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text_of(page)):
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists() or to in GENERATED, target
        assert not anchor or to in GENERATED or anchor in anchors(to), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w./-])(?:tests|jobs|covseg_ray|cluster|benchmarks)/[\w./-]*\w", text_of(page)))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_names_of_code_on_the_pages_of_how_to_add_something_exist() -> None:
    files = [path for folder in ("covseg_ray", "tests") for path in ROOT.glob(f"{folder}/**/*.py")]
    code = {word for path in files for word in words(path)} | {path.stem for path in files}
    pages = [page for page in PAGES if page.parent.name == "develop" and re.match("add-|block-", page.name)]
    named = {name for page in pages for name in re.findall(r"`(_?[A-Za-z]+(?:_[A-Za-z]+)+)`", text_of(page))}
    assert "_ends_early" in named
    assert sorted(named - code - {"export_NAME"}) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_make_targets_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE))
    text = text_of(page)
    named = set(re.findall(r"`make ([\w-]+)", text)) | set(re.findall(r"^make ([\w-]+)", text, flags=re.MULTILINE))
    assert named <= targets


def test_the_readme_is_short() -> None:
    lines = text_of(README).splitlines()
    assert len(lines) <= MOST_LINES
    cells = [cell.strip() for line in lines if line.startswith("|") for cell in line.strip("|").split("|")]
    assert max(map(len, cells)) <= LONGEST_CELL


def test_the_results_of_the_readme_are_those_of_the_shipped_model() -> None:
    metrics = json.loads((CARD.parent / "model.json").read_text(encoding="utf-8"))["metrics"]
    rows = re.findall(r"^\| `(\w+)`: .* \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|$", text_of(README), flags=re.MULTILINE)
    assert 5 <= len(rows) <= 8
    for name, value, low, high in rows:
        assert float(value) == round(metrics[name]["value"], 3)
        if name != "false_alarm":  # of 0 in 466 films by the exact interval, below
            assert (float(low), float(high)) == (round(metrics[name]["low"], 3), round(metrics[name]["high"], 3))


def test_the_exact_interval_of_no_false_alarm_is_that_of_the_readme() -> None:
    highest = 1 - 0.025 ** (1 / 466)
    assert f"| 0.000 | 0.000 to {highest:.3f} |" in text_of(README)


@pytest.mark.parametrize("page", [README, CARD], ids=["README", "card"])
def test_the_first_limit_is_that_of_compression_and_size(page: Path) -> None:
    limits = text_of(page).partition("## Limits\n")[2]
    assert "compressed" in limits.strip().split("\n- ")[0]
