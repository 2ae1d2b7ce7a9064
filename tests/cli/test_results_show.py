from __future__ import annotations

import csv
import itertools
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from covseg_ray.cli.results import app
from covseg_ray.errors import StorageError, UsageError
from covseg_ray.radiograph.masks import encode_png1
from covseg_ray.storage.runs.result_table import SCHEMA


def run(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def write_run(
    out: Path,
    infected: list[int],
    reasons: list[str],
    films_per_second: float = 1234.56,
    expected_iou: Sequence[float] = (),
) -> str:
    """A finished run of films of 10 x 10 pixels, so many of them infected, and of rejects; three rows a file."""
    rows: list[dict[str, Any]] = []
    for pixels, expected in itertools.zip_longest(infected, expected_iou):
        mask_HW = (np.arange(100).reshape(10, 10) < pixels).astype(np.uint8)
        found = {"height": 10, "width": 10, "infection_fraction": pixels / 100, "mask": encode_png1(mask_HW)}
        rows.append({"status": "ok", **found, "expected_iou": expected})
    rows += [{"status": "rejected", "reason": reason, "detail": "cut"} for reason in reasons]
    (out / "results").mkdir(parents=True)
    common = {"source": "/films", "model_id": "m", "preprocess_version": "1"}
    table = [{"item": item, "image_id": f"film-{item}", **common, **row} for item, row in enumerate(rows)]
    for start in range(0, len(table), 3):
        file = out / f"results/{start:03d}.parquet"
        pq.write_table(pa.Table.from_pylist(table[start : start + 3], schema=SCHEMA), file)
    counts = {reason: reasons.count(reason) for reason in reasons}
    summary = {"source": "/films", "out": "s3://elsewhere", "model": "bundle", "model_id": "m", "inputs": len(rows)}
    summary |= {"ok": len(infected), "rejected": len(reasons), "reasons": counts, "version": "0"}
    summary |= {"films_per_second": films_per_second, "seconds": 1.0, "not_frontal": 2, "frontal_level": 0.005}
    (out / "summary.json").write_text(json.dumps(summary))
    return str(out)


INFECTED = [0, 12, 0, 7, 100, 1]
REASONS = ["truncated", "empty", "truncated"]


@pytest.fixture
def out(tmp_path: Path) -> str:
    return write_run(tmp_path / "out", INFECTED, REASONS)


def test_show_prints_the_numbers_of_the_run(out: str) -> None:
    result = run("show", out)
    assert result.exit_code == 0
    title, *lines = result.stdout.splitlines()
    assert title == out
    assert [line.split(maxsplit=1) for line in lines[:2]] == [["inputs", "9"], ["ok", "6"]]
    shown = {words[0].strip(): words[1].strip() for words in (line.rsplit("  ", 1) for line in lines)}
    assert shown == {
        "inputs": "9",
        "ok": "6",
        "rejected": "3",
        "truncated": "2",
        "empty": "1",
        "not like a frontal chest film": "2",
        "with infection": "66.67 %",
        "infected share of film, mean": "20.00 %",
        "infected share of film, median": "4.00 %",
        "films per second": "1,234.6",
    }
    assert len({len(line) for line in lines}) == 1


def test_show_as_json_is_one_document(out: str) -> None:
    result = run("show", out, "--json")
    document = json.loads(result.stdout)
    fraction = document.pop("infection_fraction")
    assert document.pop("with_infection") == pytest.approx(4 / 6)
    assert fraction["mean"] == pytest.approx(statistics.mean(INFECTED) / 100)
    assert fraction["median"] == pytest.approx(statistics.median(INFECTED) / 100)
    assert document == {
        "out": out,
        "inputs": 9,
        "ok": 6,
        "rejected": 3,
        "reasons": {"truncated": 2, "empty": 1},
        "films_per_second": 1234.56,
        "not_frontal": 2,
        "expected_iou": {"mean": None, "median": None},
    }


def test_show_says_how_sure_the_model_is_of_films_with_infection(tmp_path: Path) -> None:
    expected = [1.0, 0.75, 1.0, 0.5, 0.875, 0.25]
    out = write_run(tmp_path, INFECTED, REASONS, expected_iou=expected)
    found = json.loads(run("show", out, "--json").stdout)["expected_iou"]
    infected = [value for value, pixels in zip(expected, INFECTED, strict=True) if pixels]
    assert found == {"mean": statistics.mean(infected), "median": statistics.median(infected)}
    shown = [line.rsplit("  ", 1) for line in run("show", out).stdout.splitlines()]
    assert ["expected IoU with infection, median", "0.625"] in [[cell.strip() for cell in line] for line in shown]


def test_show_where_no_film_was_segmented(tmp_path: Path) -> None:
    out = write_run(tmp_path, [], ["empty"] * 2, films_per_second=0.0)
    lines = run("show", out).stdout.splitlines()
    assert [line.split()[-1] for line in lines[-4:]] == ["-", "-", "-", "-"]
    document = json.loads(run("show", out, "--json").stdout)
    assert document["with_infection"] is None
    assert document["infection_fraction"] == {"mean": None, "median": None}


def test_show_where_no_film_was_rejected(tmp_path: Path) -> None:
    lines = run("show", write_run(tmp_path, [50], [])).stdout.splitlines()
    assert [line.split() for line in lines[1:4]] == [["inputs", "1"], ["ok", "1"], ["rejected", "0"]]
    assert lines[5].split() == ["with", "infection", "100.00", "%"]


def test_show_of_a_run_without_inputs(tmp_path: Path) -> None:
    assert json.loads(run("show", write_run(tmp_path, [], []), "--json").stdout)["inputs"] == 0


def test_show_refuses_results_that_are_not_those_of_the_summary(out: str) -> None:
    (Path(out) / "results/000.parquet").unlink()
    with pytest.raises(StorageError, match="counts 6 films with a mask, results/ holds 3; files were lost or added"):
        run("show", out)


def test_nothing_is_shown_or_exported_of_a_run_that_has_not_ended(out: str, tmp_path: Path) -> None:
    (Path(out) / "summary.json").unlink()
    with pytest.raises(StorageError, match="no finished run there"):
        run("show", out)
    with pytest.raises(StorageError, match="no finished run there"):
        run("export", out, "--to", "csv", str(tmp_path / "export"))


def test_export_writes_each_format_and_says_where(out: str, tmp_path: Path) -> None:
    target = tmp_path / "export"
    assert run("export", out, "--to", "csv", str(target)).stdout == f"9 rows in {target}/results.csv\n"
    assert run("export", out, "--to", "png", str(target)).stdout == f"6 masks in {target}/masks\n"
    assert run("export", out, "--to", "coco", str(target)).stdout == f"4 masks in {target}/annotations.json\n"
    with (target / "results.csv").open(newline="") as file:
        assert [row["image_id"] for row in csv.DictReader(file)] == [f"film-{item}" for item in range(9)]
    assert sorted(path.name for path in (target / "masks").iterdir()) == [f"film-{item}.png" for item in range(6)]
    annotations = json.loads((target / "annotations.json").read_text())["annotations"]
    assert [annotation["area"] for annotation in annotations] == [12, 7, 100, 1]
    with pytest.raises(UsageError, match="an export is there already"):
        run("export", out, "--to", "coco", str(target))


@pytest.mark.parametrize("words", [["--to", "xlsx", "DIR"], ["DIR"], ["--to", "csv"]])
def test_export_without_a_format_that_it_knows_or_without_a_folder_is_misuse(out: str, words: list[str]) -> None:
    assert run("export", out, *words).exit_code == 2


def test_help_imports_nothing_heavy() -> None:
    heavy = "[name for name in ('numpy', 'pyarrow', 'fsspec') if name in sys.modules]"
    command = [sys.executable, "-c", f"import sys, covseg_ray.cli.results; print({heavy})"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
