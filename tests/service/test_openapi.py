"""schemathesis makes requests from the served OpenAPI description, sound and unsound, and checks every answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from endpoints import InProcess, served

from covseg_ray.service.backend import Settings

pytestmark = pytest.mark.full

KEY = "k" * 20
# No schema can say which bytes are a film: those that are none may be refused.
CHECKS = """[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "415", "422"]
"""


@pytest.mark.parametrize("guarded", [False, True], ids=["open", "with keys"])
@pytest.mark.parametrize("examples", [30, pytest.param(500, marks=pytest.mark.drill)])
def test_every_answer_is_as_described(predict: InProcess, guarded: bool, examples: int, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    (tmp_path / "schemathesis.toml").write_text(CHECKS)
    with served(predict, Settings(keys_file=str(keys) if guarded else None)) as url:
        words = ["run", f"{url}/openapi.json", "--checks", "all", "--max-examples", str(examples), "--no-color"]
        words += ["--header", f"Authorization: Bearer {KEY}"] if guarded else []
        command = [str(Path(sys.executable).with_name("schemathesis")), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "4 selected / 4 total" in done.stdout
