"""Constraints, changelog, citation and the package's metadata say the same as the code."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from places import ROOT

import covseg_ray

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKED_PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OUR_SYSTEM = {
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
}


def test_the_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d[^\]]*)\]", changelog, flags=re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert version("covseg-ray") == covseg_ray.__version__ == released[0] == cited["version"]


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
    for text in [
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
        *project["optional-dependencies"]["docs"],
    ]:
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"python_version": python}):
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), text


def test_torch_is_pinned_without_a_build() -> None:
    assert {str(pins(python)["torch"]) for python in CHECKED_PYTHONS} == {"2.13.0"}
