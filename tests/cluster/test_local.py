"""cluster/local: its script is sound, and tells what is wrong with its words. tests/faults runs real clusters of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from places import ROOT
from shellcheck import complaints

SCRIPT = ROOT / "cluster/local/cluster"


@pytest.mark.parametrize("file", [SCRIPT, ROOT / ".ci/run"])
def test_shellcheck_finds_nothing(file: Path) -> None:
    assert complaints(file.read_text()) == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "cluster/local/cluster up [WORKERS]"),
        (["sideways"], 2, "cluster/local/cluster up [WORKERS]"),
        (["kill"], 1, "which node"),
        (["kill", "nobody"], 1, "no node nobody"),
        (["env"], 1, "it does not run"),
    ],
)
def test_what_cannot_be_done_is_reported_in_a_line(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    done = subprocess.run(
        [SCRIPT, *words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "COVSEG_LOCAL": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, message in done.stderr, done.stdout) == (code, True, "")
