"""MkDocs hook: the reference pages that come from the code, and links of the pages that leave ``docs/``.

``commands.md`` comes from Typer, ``job-keys.md`` from the pydantic models of job and Serve files, ``endpoint.md`` from
the service's OpenAPI document. No generated page is committed.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import typer

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s:#]+)(?:#[^)\s]*)?\)")
_METHODS = ("get", "post")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show a link to a file outside ``docs/``, such as ``benchmarks/README.md``, as its path."""
    return without_outer_links(markdown, PurePosixPath(page.file.src_uri).parent)


def without_outer_links(markdown: str, folder: PurePosixPath) -> str:
    """``markdown`` of a page in ``docs/folder`` with each link out of ``docs`` as its text and its path."""

    def shown(link: re.Match[str]) -> str:
        outer = outer_path(folder, link["target"])
        if outer is None:
            return link[0]
        return f"`{outer}`" if link["text"].strip("`").rstrip("/") in outer else f"{link['text']} (`{outer}`)"

    return _LINK.sub(shown, markdown)


def outer_path(folder: PurePosixPath, target: str) -> str | None:
    """Where in the repository a link of a page in ``docs/folder`` leads, None where it stays in ``docs``."""
    root = DOCS.parent.resolve()
    path = (DOCS / folder / target).resolve()
    return None if path.is_relative_to(DOCS.resolve()) else path.relative_to(root).as_posix()


def commands_page() -> str:
    """Every command with its arguments and options."""
    from covseg_ray.cli.main import app

    root: Any = typer.main.get_command(app)
    lines = ["# Commands", "", f"{root.help}", "", "`covseg-ray --version` prints the version.", ""]
    for path, command in _commands(root, "covseg-ray"):
        context = command.context_class(command, info_name=path)
        usage = " ".join([path, *command.collect_usage_pieces(context)])
        lines += [f"## {path}", "", command.help or "", "", f"```text\n{usage}\n```", ""]
        lines += ["| argument or option | meaning |", "| --- | --- |"]
        records = (each.get_help_record(context) for each in command.params)
        lines += [_row(f"`{spelling}`", meaning) for spelling, meaning in filter(None, records)]
        lines.append("")
    return "\n".join(lines)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, below in command.commands.items():
        yield from _commands(below, f"{path} {name}")


def job_keys_page() -> str:
    """Every key of a job file and of a Serve file."""
    from covseg_ray.config.search import Search
    from covseg_ray.config.serve import ServeConfig
    from covseg_ray.config.train import Job

    job = Job.model_json_schema()
    lines = [
        "# Keys of job files and Serve files",
        "",
        "A job file is TOML. The environment overrides it (`COVSEG_TRAIN__EPOCHS=3`), and `--set train.epochs=3`",
        "overrides both. `covseg-ray config show -c paper` prints the value of each key and where it comes from.",
        "",
        "## Job file",
        "",
        *_keys(_leaves(job, job)),
        "## `[[search]]`, for `covseg-ray tune`",
        "",
        _prose(Search.__doc__),
        "",
        *_keys(_leaves(Search.model_json_schema(), {})),
        "## `args` of a Serve file",
        "",
        _prose(ServeConfig.__doc__),
        "",
        *_keys(_leaves(ServeConfig.model_json_schema(), {})),
    ]
    return "\n".join(lines)


def job_keys() -> list[tuple[str, Mapping[str, Any]]]:
    """Every key of a job file, dotted, with its part of the JSON schema."""
    from covseg_ray.config.train import Job

    schema = Job.model_json_schema()
    return list(_leaves(schema, schema))


def _leaves(
    schema: Mapping[str, Any], root: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, field in schema["properties"].items():
        section = root.get("$defs", {}).get(field.get("$ref", "").rpartition("/")[2])
        if section and "properties" in section:
            yield from _leaves(section, root, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _keys(fields: Iterator[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    yield from ("| key | default | values | meaning |", "| --- | --- | --- | --- |")
    for key, field in fields:
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "required"
        yield _row(f"`{key}`", default, _values(field), field.get("description", ""))
    yield ""


def _values(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_values(each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    ends = {"minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}"}
    limits = [words.format(schema[name]) for name, words in ends.items() if name in schema]
    if schema.get("type") == "array":
        inner = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list of {_values(inner)}"
    return " ".join([schema.get("type", "any value"), *limits])


def endpoint_page() -> str:
    """The HTTP API as its OpenAPI document has it."""
    document = openapi()
    lines = [
        "# HTTP API",
        "",
        "A running endpoint serves this description at `/docs`, as OpenAPI at `/openapi.json`. See",
        "[Serve a model](../guides/serve.md) for examples.",
        "",
    ]
    for path, method in product(document["paths"], _METHODS):
        if method in document["paths"][path]:
            lines += _operation(f"{method.upper()} {path}", document["paths"][path][method])
    lines += ["## Schemas", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += [f"### {name}", "", _prose(schema.get("description")), ""]
        required = schema.get("required", ())
        lines += ["| field | values | always there | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            _row(f"`{field}`", _linked(part), "yes" if field in required else "no", part.get("description", ""))
            for field, part in schema.get("properties", {}).items()
        ]
        lines.append("")
    return "\n".join(lines)


def openapi() -> dict[str, Any]:
    """The OpenAPI document of an endpoint. No model is loaded for it."""
    from covseg_ray.service.app import create_app
    from covseg_ray.service.backend import Settings

    return create_app(cast("Any", None), Settings(), cast("Any", None)).openapi()


def _operation(title: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"## {title}", "", operation.get("description", ""), "")
    if body := operation.get("requestBody"):
        kinds = ", ".join(f"`{kind}`" for kind in body["content"])
        yield from (f"Body: {body.get('description', '')} Types: {kinds}.", "")
    if parameters := operation.get("parameters"):
        yield from ("| query | default | values | meaning |", "| --- | --- | --- | --- |")
        for each in parameters:
            schema = each["schema"]
            default = f"`{json.dumps(schema['default'])}`" if "default" in schema else ""
            yield _row(f"`{each['name']}`", default, _values(schema), each.get("description", ""))
        yield ""
    yield from ("| status | answer | type |", "| --- | --- | --- |")
    for status, answer in operation["responses"].items():
        if status != "422" or "HTTPValidationError" not in json.dumps(answer):
            kinds = ", ".join(f"`{kind}`" for kind in answer.get("content", {}))
            yield _row(status, answer["description"], kinds)
    yield ""


def _linked(schema: Mapping[str, Any]) -> str:
    """As `_values`, with the names of other schemas as links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if each_of := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_linked(each) for each in each_of)
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_linked(schema['items'])}"
    return _values(schema)


def _prose(docstring: str | None) -> str:
    """A docstring as Markdown."""
    paragraphs = inspect.cleandoc(docstring or "").replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands_page,
    "reference/job-keys.md": job_keys_page,
    "reference/endpoint.md": endpoint_page,
}
