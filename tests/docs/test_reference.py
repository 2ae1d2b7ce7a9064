"""The reference pages say the same as the code, those that are generated and those that are written."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import PurePosixPath
from types import ModuleType
from typing import Any

import pytest
import typer
from places import ROOT

from covseg_ray import errors
from covseg_ray.cli.main import app
from covseg_ray.config import train as config
from covseg_ray.radiograph.changes import CHANGES
from covseg_ray.reports.metric_words import METRICS
from covseg_ray.storage.datasets import shards
from covseg_ray.storage.runs import result_table

REFERENCE = ROOT / "docs/reference"


def table(page: str, title: str) -> list[list[str]]:
    """The cells of the table of a page whose first column has that title."""
    _, found, below = (REFERENCE / page).read_text(encoding="utf-8").partition(f"| {title} |")
    assert found
    rows = below.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def names(page: str, title: str) -> list[str]:
    """What stands in backticks in the first column of that table."""
    return [name for row in table(page, title) for name in re.findall(r"`(\w+)`", row[0])]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def error_classes() -> list[type[errors.CovsegError]]:
    return [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.CovsegError)]


def test_the_exit_codes_are_those_of_the_code() -> None:
    codes = {0, *(each.exit_code for each in error_classes())}
    codes |= {code for name, code in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(row[0]) for row in table("errors.md", "exit code")} == codes


def test_the_classes_of_errors_are_those_of_the_code() -> None:
    of_page = {(row[0].strip("`"), int(row[1]), int(row[2])) for row in table("errors.md", "class")}
    assert of_page == {(each.__name__, each.exit_code, each.http_status) for each in error_classes()}


def test_the_metrics_are_those_of_the_reports() -> None:
    assert sorted(names("metrics.md", "name")) == sorted(METRICS)


def test_the_changes_are_those_of_the_code() -> None:
    of_page = [name for row in table("metrics.md", "change") for name in re.findall(r"`([\w.+-]+)`", row[0])]
    assert sorted(of_page) == sorted(CHANGES)
    guide = (REFERENCE.parent / "guides/evaluate.md").read_text(encoding="utf-8")
    assert f"predicts every film {1 + len(CHANGES)}\ntimes" in guide


def test_the_columns_of_the_result_table_are_those_of_its_schema() -> None:
    assert names("result-table.md", "column") == result_table.SCHEMA.names


def test_the_columns_of_a_dataset_are_those_of_its_schema() -> None:
    assert names("dataset.md", "column") == shards.SCHEMA.names


def test_every_command_is_on_its_page_with_every_option(generate: ModuleType) -> None:
    page = generate.commands_page()
    root: Any = typer.main.get_command(app)
    for noun, command in root.commands.items():
        for name, each in getattr(command, "commands", {}).items() or {"": command}.items():
            _, found, section = page.partition(f"## covseg-ray {noun} {name}".rstrip() + "\n")
            assert found
            section = section.partition("\n## ")[0]
            options = [option for parameter in each.params for option in parameter.opts if option.startswith("-")]
            assert [option for option in options if option not in section] == []


def test_every_key_of_a_job_is_on_its_page_with_a_meaning(generate: ModuleType) -> None:
    keys = dict(generate.job_keys())
    assert list(keys) == config.known_keys()
    assert [key for key, field in keys.items() if not field.get("description")] == []
    page = generate.job_keys_page()
    assert [key for key in keys if f"| `{key}` |" not in page] == []


def test_every_path_and_answer_of_the_endpoint_is_on_its_page(generate: ModuleType) -> None:
    page, document = generate.endpoint_page(), generate.openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            section = page.partition(f"## {method.upper()} {path}\n")[2].partition("\n## ")[0]
            statuses = [status for status, answer in operation["responses"].items() if "Validation" not in str(answer)]
            assert statuses
            assert [status for status in statuses if f"| {status} |" not in section] == []
    assert [name for name in document["components"]["schemas"] if f"### {name}\n" not in page] == []


def test_a_link_out_of_the_site_is_shown_as_a_path(generate: ModuleType) -> None:
    text = "[`benchmarks/`](../../benchmarks/README.md), [the card](../../README.md) and [Train](train.md#presets)"
    shown = generate.without_outer_links(text, PurePosixPath("guides"))
    assert shown == "`benchmarks/README.md`, the card (`README.md`) and [Train](train.md#presets)"
