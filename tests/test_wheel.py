"""What is installed from a wheel segments films: no checkout is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from places import ROOT

from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom

pytestmark = pytest.mark.timeout(600)
COPIED = ("pyproject.toml", "README.md", "LICENSE", "covseg_ray")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves its files where it builds."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in COPIED:
        (source / name).symlink_to(ROOT / name)
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", *build], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a bare environment with the wheel, and with this one's packages but covseg-ray."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    ours = [path for name in ("purelib", "platlib") if (path := sysconfig.get_path(name))]
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(packages), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    (packages / "dependencies.pth").write_text("\n".join(dict.fromkeys(ours)))  # its own .pth files are not read
    return folder / "bin/python"


@pytest.mark.full
def test_a_wheel_segments_films_with_the_model_and_the_presets_in_it(python: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    for index in range(2):
        (tmp_path / f"films/{index}.png").write_bytes(encode_png(make_phantom(1, index, 300).image))

    def covseg(*words: str) -> str:
        command = [python, "-m", "covseg_ray", *words]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = [python, "-c", "import covseg_ray; print(covseg_ray.__file__)"]
    assert subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.startswith(
        str(python.parents[1])
    )
    assert json.loads(covseg("config", "show", "-c", "best", "--json"))["job"]["train"]["augment"] == "mild"
    summary = json.loads(covseg("segment", "films", "out", "--write", "masks", "--json"))
    assert (summary["ok"], summary["rejected"]) == (2, 0)
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["0.png.png", "1.png.png"]
    assert (tmp_path / "out/report.html").stat().st_size > 10_000  # its templates are in the wheel
