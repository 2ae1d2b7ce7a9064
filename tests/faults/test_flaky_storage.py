"""Storage that fails a fifth of the requests changes nothing; storage that refuses ends a run at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from conftest import Run
from flaky_proxy import FlakyProxy
from runs import Command
from test_segment_kills import finish, table, words, write_archive

FILMS = 300


@pytest.mark.timeout(900)
def test_a_fifth_of_all_requests_may_fail(
    undisturbed: Run, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(f"{bucket}/flaky", FILMS)
    model = undisturbed.outcome.bundle
    with Command(words(f"{bucket}/flaky", f"{bucket}/calm-out", model), tmp_path) as command:
        finish(command, FILMS)
    with FlakyProxy(os.environ["AWS_ENDPOINT_URL"], share=0.2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with Command(words(f"{bucket}/flaky", f"{bucket}/flaky-out", model), tmp_path) as command:
            finish(command, FILMS)
    monkeypatch.undo()
    assert table(f"{bucket}/flaky-out") == table(f"{bucket}/calm-out")
    wrong = sum(proxy.faults.values()) - proxy.faults["passed"]
    assert 0.15 < wrong / sum(proxy.faults.values()) < 0.25
    assert min(proxy.faults[fault] for fault in ("500", "503", "reset-before", "reset-after", "stall")) > 5


def test_a_refusal_is_told_in_one_line_and_soon(
    undisturbed: Run, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FlakyProxy(os.environ["AWS_ENDPOINT_URL"], share=1, refuse=True) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        begin = time.monotonic()
        with Command(words(f"{bucket}/flaky", f"{bucket}/refused", undisturbed.outcome.bundle), tmp_path) as command:
            code, output, errors = command.finish(60)
    assert (code, output) == (4, "")
    assert errors.count("\n") == 1
    assert "refused" in errors
    assert "AWS_* credentials" in errors
    assert time.monotonic() - begin < 10
