"""Everything below the engine works on a machine without Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest
from places import ROOT

PACKAGE = ROOT / "covseg_ray"
WITHOUT_RAY = """
import importlib, sys
sys.modules["ray"] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len(sys.argv) - 1)
"""


def modules(*rooms: str) -> list[str]:
    files = [file for room in rooms for file in sorted((PACKAGE / room).rglob("*.py"))]
    parts = [file.relative_to(PACKAGE.parent).with_suffix("").parts for file in files]
    return [".".join(each).removesuffix(".__init__") for each in parts]


@pytest.mark.parametrize(
    "rooms", [("radiograph", "segmentation", "storage", "reports", "service"), ("cli",)], ids="+".join
)
def test_imports_without_ray(rooms: tuple[str, ...]) -> None:
    names = ["covseg_ray.errors", "covseg_ray.config.train", "covseg_ray.engine.tuning.plan", *modules(*rooms)]
    assert len(names) > 5
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY, *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(len(names))), done.stderr


def test_the_engine_is_what_needs_ray() -> None:
    """Ray is indeed unimportable above."""
    code = [sys.executable, "-c", WITHOUT_RAY, "covseg_ray.engine.training.loader"]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "import of ray halted" in done.stderr


def test_a_command_starts_without_what_draws_its_charts() -> None:
    code = "import sys, covseg_ray.engine.training.run, covseg_ray.engine.bulk.run; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
