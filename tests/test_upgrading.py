"""docs/develop/upgrade-ray.md names every private or unstable part of Ray in the code, where it is, and no other."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache

import pytest
from places import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = ROOT / "covseg_ray"
PAGE = (ROOT / "docs/develop/upgrade-ray.md").read_text(encoding="utf-8")
PRIVATE_MODULE = re.compile(r"ray\.(?:.*\.)?(?:_\w+|v2)(?:\.|$)")
UNSTABLE = re.compile(r"PublicAPI \((?:alpha|beta)\)|\*\*DeveloperAPI:\*\*")
IN_STRINGS = re.compile(r"\bRAY_[A-Za-z0-9_]+\b|^ray(?:\.\w+)+$|^\w+:__\w+__$")
PRIVATE_COLUMNS, MOST_PRIVATE_ROWS = 5, 10
OF_NAMED_TUPLES = {"_asdict", "_fields", "_replace", "_make"}


def bound(tree: ast.AST) -> dict[str, str]:
    """What each name stands for that a file imports from Ray."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        elif isinstance(node, ast.Import):
            names |= {top: top for each in node.names if (top := each.name.split(".")[0]) == "ray"}
    return names


def dotted(node: ast.AST, names: dict[str, str]) -> str | None:
    """``ray.data.DataContext`` for such an expression, None for one that does not begin with a name of Ray's."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (before := dotted(node.value, names)):
        return f"{before}.{node.attr}"
    return None


@cache
def unstable(name: str) -> str | None:
    """The first part of a dotted name that Ray's own documentation calls alpha, beta or for developers."""
    module, parts = importlib.import_module("ray"), name.split(".")
    found: object = module
    for count, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:count]))
            except ImportError:
                return None
        found = getattr(found, part)
        if UNSTABLE.search(getattr(found, "__doc__", None) or ""):
            return ".".join(parts[:count])
    return None


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of the nodes that only document."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def of_ray(tree: ast.AST) -> Iterator[str]:
    """Every dotted name of Ray's: imported, or reached from what is imported."""
    names = bound(tree)
    yield from (name for name in names.values() if name != "ray")
    yield from (name for node in ast.walk(tree) if isinstance(node, ast.Attribute) and (name := dotted(node, names)))


def with_underscore(tree: ast.AST) -> Iterator[str]:
    """Attributes of other objects, words of calls and overridden methods of Ray's classes that begin with ``_``."""
    names = bound(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            yield node.attr
        elif isinstance(node, ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            yield from (each.value for each in node.args[1:2] if isinstance(each, ast.Constant))
        elif isinstance(node, ast.ClassDef):
            methods = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
            from_ray = any(dotted(base, names) for base in node.bases)
            yield from (name for name in methods if from_ray or name.startswith("__serve_"))


def in_strings(tree: ast.AST) -> Iterator[str]:
    """Variables of the environment, loggers, and resources."""
    documentation = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield from IN_STRINGS.findall(node.value)


def uses(tree: ast.AST, ours: set[str]) -> set[str]:
    """The names that the page must have; ``ours`` are those that this package defines itself."""
    reached = set(of_ray(tree))
    private = {name for name in reached if PRIVATE_MODULE.match(name)}
    found = {name for name in private if not any(other.startswith(f"{name}.") for other in private)}
    found |= {name for each in reached - private if (name := unstable(each))}
    if reached:
        underscored = {name for name in with_underscore(tree) if re.match(r"_[a-z]|__serve_", name)}
        found |= underscored - ours - OF_NAMED_TUPLES
    return found | set(in_strings(tree))


def defined(tree: ast.AST) -> Iterator[str]:
    """Names of functions, classes, and attributes that are set, but for methods that override one of Ray's."""
    overriding = {
        id(method)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(dotted(base, bound(tree)) for base in node.bases)
        for method in node.body
    }
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and id(node) not in overriding:
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


@pytest.fixture(scope="module")
def used() -> dict[str, set[str]]:
    """The files, below the package, in which each name is used."""
    trees = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    ours = {name for tree in trees.values() for name in defined(tree) if not name.startswith("__serve_")}
    found: dict[str, set[str]] = {}
    for file, tree in trees.items():
        for name in uses(tree, ours):
            found.setdefault(name, set()).add(file)
    return found


def rows() -> list[list[str]]:
    """The cells of the page's tables of names: name, where, (of private ones why,) what breaks, which test notices."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if len(row) in (4, PRIVATE_COLUMNS)]


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_every_name_is_on_the_page_and_no_other(used: dict[str, set[str]]) -> None:
    listed = {name for row in rows() for name in quoted(row[0])}
    assert sorted(used.keys() - listed) == [], "used, and not on the page"
    assert sorted(listed - used.keys()) == [], "on the page, and not used"


def test_each_is_where_the_page_says(used: dict[str, set[str]]) -> None:
    for names, where, *_ in rows():
        files = {file for name in quoted(names) for file in used.get(name, set())}
        assert quoted(where) == files, names


def test_private_names_are_few_and_each_has_its_reason() -> None:
    private = PAGE.partition("## Private")[2].partition("\n## ")[0]
    of_private = [row for row in rows() if row[0] in private]
    assert 0 < len(of_private) <= MOST_PRIVATE_ROWS
    assert all(len(row) == PRIVATE_COLUMNS and row[2] for row in of_private)


def test_the_tests_that_the_page_names_exist() -> None:
    named = {each for each in quoted(PAGE) if each.startswith("tests/")}
    assert len(named) > 10
    for each in named:
        path, _, function = each.split(" ")[0].partition("::")
        assert (ROOT / path).exists(), each
        assert not function or f"def {function}(" in (ROOT / path).read_text(), each


def test_the_page_speaks_of_the_pinned_series() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pin,) = (each for each in project["dependencies"] if each.startswith("ray["))
    assert f"`{pin}`" in PAGE
    for path in (each for each in quoted(PAGE) if re.fullmatch(r"(?:cluster|covseg_ray|jobs)/[\w./-]+\.\w+", each)):
        assert (ROOT / path).exists(), path


def test_a_use_of_each_kind_is_seen() -> None:
    source = """
from ray.data._internal.plan import Thing
from ray._private import worker
from ray.train.torch import TorchTrainer
import ray
class Mine(TorchTrainer):
    def _hook(self): ...
    def own(self): return self._mine
worker.GLOBAL = 1
ray.init(_word=1)
executor._inside, getattr(executor, "_asked", None), portion._asdict(), other._ours
ray.data.DataContext.get_current()
os.environ["RAY_SOME_SWITCH"] = "ray.data.log"
"""
    assert uses(ast.parse(source), {"_ours"}) == {
        "ray.data._internal.plan.Thing",
        "ray._private.worker.GLOBAL",
        "_hook",
        "_word",
        "_inside",
        "_asked",
        "ray.data.DataContext",
        "RAY_SOME_SWITCH",
        "ray.data.log",
    }
