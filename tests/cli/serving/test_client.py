from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scripted_service as scripted
import typer
from scripted_service import Handler, Request, Script, error, serving
from terminals import shown_on_a_terminal
from typer.testing import CliRunner, Result

from covseg_ray.cli.progress import ClientProgress
from covseg_ray.cli.serving import client as command
from covseg_ray.errors import CovsegError, StorageError, UsageError
from covseg_ray.radiograph.masks import decode_png1

KEY = "secret-key-of-a-test"


@pytest.fixture(autouse=True)
def _no_proxy_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "COVSEG_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def script() -> Iterator[Script]:
    with serving(Script()) as running:
        yield running


def run(script: Script, *words: str | Path) -> Result:
    app = typer.Typer()
    app.command()(command.client)
    result = CliRunner().invoke(app, [*map(str, words), "--url", script.url])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write(folder: Path, films: dict[str, bytes]) -> list[Path]:
    for name, data in films.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return [folder / name for name in films]


def infected(data: bytes) -> int:
    """Pixels of 80 that the scripted service finds infected."""
    return hashlib.sha256(data).digest()[0] % 81


def assert_mask(file: Path, data: bytes) -> None:
    mask_HW = np.zeros((10, 8), np.uint8)
    mask_HW.flat[: infected(data)] = 1
    assert np.array_equal(decode_png1(file.read_bytes()), mask_HW)


def test_numbers_are_printed_and_nothing_is_written(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {"a.png": b"film a", "longer.name.dcm": b"DICM b"})
    result = run(script, *films)
    width = len(str(films[1]))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{'file':<{width}}  infection",
        f"{films[0]!s:<{width}}  {100 * infected(b'film a') / 80:7.2f} %",
        f"{films[1]!s:<{width}}  {100 * infected(b'DICM b') / 80:7.2f} %",
        "films: 2 segmented, 0 rejected, 2 in all",
    ]
    assert len(script.films) == 2
    assert sorted(tmp_path.iterdir()) == sorted(films)


def test_every_kind_of_result_goes_into_its_own_folder(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {"a.png": b"film a", "b.dcm": b"DICM b"})
    result = run(script, *films, "--out", tmp_path / "out", "--write", "masks, overlays,dicom-seg", "--model", "other")
    assert result.exit_code == 0
    found = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert found == {"a.png", "b.png", "overlays/a.png", "overlays/b.png", "dicom-seg/b.dcm"}
    assert_mask(tmp_path / "out/a.png", b"film a")
    assert_mask(tmp_path / "out/b.png", b"DICM b")
    assert (tmp_path / "out/overlays/b.png").read_bytes() == b"overlay of DICM b"
    assert (tmp_path / "out/dicom-seg/b.dcm").read_bytes() == b"seg of DICM b"
    assert {request.query["model"][0] for request in script.films} == {"other"}


def test_a_dicom_film_without_a_possible_seg_is_segmented_all_the_same(script: Script, tmp_path: Path) -> None:
    def no_seg(handler: Handler, request: Request) -> None:
        turn = error(422, "no-dicom-seg") if request.headers["accept"] == "application/dicom" else scripted.segment
        turn(handler, request)

    script.default = no_seg
    (film,) = write(tmp_path, {"a.dcm": b"DICM a"})
    result = run(script, film, "--out", tmp_path / "out", "--write", "masks,dicom-seg")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].endswith(" %  no dicom-seg: this is no-dicom-seg")
    assert_mask(tmp_path / "out/a.png", b"DICM a")


def test_films_of_one_name_do_not_meet(script: Script, tmp_path: Path) -> None:
    names = ["1/a.png", "2/a.png", "3/A.jpg", "a-2.png", "4/a.tif", "overlays.png", "5/a"]
    films = write(tmp_path, {name: name.encode() for name in names})
    result = run(script, *films, "--out", tmp_path / "out", "--json", "--write", "masks,overlays")
    rows = json.loads(result.stdout)["films"]
    assert [row["file"] for row in rows] == list(map(str, films))
    written = [file for row in rows for file in row["written"]]
    assert len({file.casefold() for file in written}) == 14
    for name, row in zip(names, rows, strict=True):
        mask, overlay = map(Path, row["written"])
        assert_mask(mask, name.encode())
        assert overlay.read_bytes() == b"overlay of " + name.encode()


def test_what_is_there_already_stays_and_nothing_is_sent(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {"a.png": b"film a", "b.png": b"film b"})
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}/a.png: already exists")):
        run(script, *films, "--out", tmp_path)
    assert script.seen == []
    assert [film.read_bytes() for film in films] == [b"film a", b"film b"]


def test_what_comes_to_be_there_meanwhile_stays(script: Script, tmp_path: Path) -> None:
    (film,) = write(tmp_path, {"in/a.png": b"film a"})

    def meanwhile(handler: Handler, request: Request) -> None:
        write(tmp_path, {"out/a.png": b"of another"})
        scripted.segment(handler, request)

    script.turns = [meanwhile]
    result = run(script, film, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "was created by another program meanwhile" in result.stdout
    assert [file.read_bytes() for file in (tmp_path / "out").iterdir()] == [b"of another"]


def test_a_rejected_film_is_reported_with_its_reason(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {"a.png": b"film a", "b.png": b"film b", "c.png": b"film c"})
    script.turns = [scripted.segment, error(422, "truncated")]
    result = run(script, *films, "--concurrency", "1", "--out", tmp_path / "out")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[2:] == [
        f"{films[1]}  rejected: truncated, this is truncated",
        f"{films[2]}  {100 * infected(b'film c') / 80:7.2f} %",
        "films: 2 segmented, 1 rejected, 3 in all",
    ]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]


def test_the_expected_iou_stands_beside_the_infection(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {"a.png": b"film a", "b.png": b"film b"})

    def answer(handler: scripted.Handler, request: scripted.Request) -> None:
        found = scripted.document(request.body) | {"expected_iou": 0.375}
        handler.answer(200, "application/json", json.dumps(found).encode())

    script.turns = [answer, error(422, "truncated"), answer, error(422, "truncated")]
    assert run(script, *films, "--concurrency", "1").stdout.splitlines()[:2] == [
        f"{'file':<{len(str(films[0]))}}  infection  expected IoU",
        f"{films[0]}  {100 * infected(b'film a') / 80:7.2f} %          0.38",
    ]
    rows = json.loads(run(script, *films, "--concurrency", "1", "--json").stdout)["films"]
    assert rows[0]["expected_iou"] == 0.375


def test_films_unlike_a_chest_film_are_rejected_on_demand(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {"a.png": b"film a", "teeth.png": b"film b"})
    script.turns = [
        scripted.segment,
        scripted.segment,
        error(422, "not-frontal"),
    ]  # the first two of a film, its overlay
    words = ["--concurrency", "1", "--out", tmp_path / "out", "--write", "masks,overlays", "--reject-unlike", "--json"]
    result = run(script, *films, *words)
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert (document["ok"], document["reasons"]) == (1, {"not-frontal": 1})
    assert [film.query.get("unlike") for film in script.films] == [["reject"], None, ["reject"]]
    assert [file.name for file in (tmp_path / "out").iterdir() if file.is_file()] == ["a.png"]


def test_a_failed_film_does_not_hold_up_the_others(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {f"{number}.png": b"film %d" % number for number in range(9)})
    script.turns = [error(422, "corrupt"), *[error(500, "failed")] * 5]
    result = run(script, *films, "--concurrency", "1", "--json")
    document = json.loads(result.stdout)
    rows = document.pop("films")
    assert result.exit_code == 1
    assert document == {"ok": 3, "rejected": 1, "failed": 5, "unsent": 0, "reasons": {"corrupt": 1}}
    assert [row["status"] for row in rows] == ["rejected"] + ["failed"] * 5 + ["ok"] * 3
    assert rows[0] == {"file": str(films[0]), **rows[0], "reason": "corrupt", "detail": "this is corrupt"}
    assert "HTTP 500 failed" in rows[1]["detail"]
    assert rows[8] == {
        **{
            "file": str(films[8]),
            "status": "ok",
            "height": 10,
            "width": 8,
            "frontal": 0.25,
            "infection_fraction": infected(b"film 8") / 80,
        },
        **{"lung_fraction": None, "severity": None, "expected_iou": None, "dicom": False},
        **{"preprocess_version": "1", "model": "default"},
        **{"input_sha256": hashlib.sha256(b"film 8").hexdigest(), "model_id": "0123456789abcdef"},
        **{"written": [], "detail": None},
    }


def test_a_service_that_goes_away_is_not_sent_the_rest(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {f"{number}.png": b"film %d" % number for number in range(20)})
    script.turns, script.default = [scripted.segment] * 5, scripted.no_answer
    app = typer.Typer()
    app.command()(command.client)
    words = [*map(str, films), "--url", script.url, "--concurrency", "2", "--timeout", "1", "--json"]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, StorageError)
    assert str(result.exception).startswith("stopped after several failures in a row; the last: http://127")
    document = json.loads(result.stdout)
    assert (document["ok"], document["rejected"]) == (5, 0)
    assert 3 <= document["failed"] < 15  # others had been begun
    assert document["unsent"] == 15 - document["failed"]


def test_nobody_there_is_reported_before_a_film_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "CHECK_SECONDS", 0.5)
    with serving(Script()) as gone:
        pass
    with pytest.raises(StorageError, match="refused"):
        run(gone, *write(tmp_path, {"a.png": b"film a"}))


def test_the_key_comes_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    films = write(tmp_path, {"a.png": b"film a", "key": f"  {KEY}\n".encode(), "wrong": b"another"})
    with serving(Script(key=KEY)) as script:
        result = run(script, films[0], "--key-file", films[1])
        assert result.exit_code == 0
        assert KEY not in result.output
        with pytest.raises(UsageError, match="the key was not accepted"):
            run(script, films[0], "--key-file", films[2])
    assert len(script.films) == 1


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe secret", b"two secret words"])
def test_a_key_file_without_a_key_is_a_line_without_its_content(
    script: Script, tmp_path: Path, content: bytes | None
) -> None:
    films = write(tmp_path, {"a.png": b"film a", **({} if content is None else {"key": content})})
    with pytest.raises(UsageError) as caught:
        run(script, films[0], "--key-file", tmp_path / "key")
    assert "secret" not in str(caught.value)
    assert script.seen == []


def test_an_unknown_kind_and_a_missing_file_are_reported_before_anything_is_sent(
    script: Script, tmp_path: Path
) -> None:
    films = write(tmp_path, {"a.png": b"film a"})
    with pytest.raises(UsageError, match="'contours': unknown; choose from masks, overlays, dicom-seg"):
        run(script, *films, "--out", tmp_path / "out", "--write", "masks,contours")
    with pytest.raises(UsageError, match=r"missing\.png: no such file"):
        run(script, *films, tmp_path / "missing.png")
    assert script.seen == []


def test_an_unknown_model_ends_the_run(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {f"{number}.png": b"film" for number in range(50)})
    script.default = error(400, "unknown-model")
    with pytest.raises(UsageError, match="unknown-model"):
        run(script, *films, "--model", "other", "--concurrency", "2")
    assert len(script.films) < 10


def test_so_many_films_are_under_way_at_a_time_and_no_more(script: Script, tmp_path: Path) -> None:
    films = write(tmp_path, {f"{number}.png": b"film %d" % number for number in range(12)})
    together, lock, most, now = threading.Barrier(3), threading.Lock(), [0], [0]

    def count(handler: Handler, request: Request) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait(60)  # three at a time, or the barrier breaks
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        scripted.segment(handler, request)

    script.default = count
    assert run(script, *films, "--concurrency", "3").exit_code == 0
    assert most == [3]
    assert not together.broken


def test_ctrl_c_does_not_wait_for_a_film(script: Script, tmp_path: Path) -> None:
    (film,) = write(tmp_path, {"a.png": b"film a"})
    script.default = scripted.silent
    code = (
        "import typer; from covseg_ray.cli.serving.client import client;"
        "app = typer.Typer(); app.command()(client); app()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(film), "--url", script.url], stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while not script.films and time.monotonic() < until:
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=25)  # the service would answer after 30 s
    assert time.monotonic() - began < 20
    assert process.returncode == 130
    assert "Traceback" not in said


def test_off_a_terminal_a_line_comes_every_half_minute() -> None:
    out, now = io.StringIO(), [1000.0]
    with ClientProgress(400, file=out, clock=lambda: now[0]) as progress:
        for second in range(1, 71):
            now[0] += 1
            for film in range(2):
                rejected = {"status": "rejected", "reason": "empty"}
                progress.update(rejected if second % 20 == 0 and film else {"status": "ok"})
        progress.update({"status": "failed"})
    assert out.getvalue().splitlines() == [
        "59/400 films · 2.0 films/s · 0:02:53 left · 1 rejected (empty 1)",
        "119/400 films · 2.0 films/s · 0:02:22 left · 2 rejected (empty 2)",
    ]


def test_on_a_terminal_a_bar_shows_how_far_it_is_and_goes_away() -> None:
    shown = shown_on_a_terminal("""
import time
from covseg_ray.cli.progress import ClientProgress
with ClientProgress(8) as progress:
    for status in ("ok", "ok", "failed", "rejected"):
        time.sleep(0.1)
        progress.update({"status": status, "reason": "corrupt"})
    time.sleep(0.5)
""")
    assert re.search(r"4/8 films · [\d.]+ films/s · 0:00:0\d left · 1 rejected \(corrupt 1\) · 1 failed", shown), shown
    assert "━" in shown


def test_a_short_run_says_nothing_on_the_way() -> None:
    out = io.StringIO()
    with ClientProgress(1, file=out) as progress:
        progress.update({"status": "ok"})
    assert out.getvalue() == ""


def test_the_module_of_the_command_imports_nothing_heavy() -> None:
    heavy = ("torch", "ray", "numpy", "httpx2", "rich", "fsspec", "pyarrow")
    code = f"import sys, covseg_ray.cli.serving.client; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_errors_of_the_command_have_the_exit_codes_of_the_design() -> None:
    assert (CovsegError.exit_code, UsageError.exit_code, StorageError.exit_code) == (1, 2, 4)
