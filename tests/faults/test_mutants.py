"""A run over mutated films ends: each of them has a mask, or a reason why not."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
from mutations import (
    DICOM_REASONS,
    compressed_dicom_files,
    image_files,
    mutated,
    mutated_dicom,
    uncompressed_dicom_files,
)
from result_rows import rows_by_item

from covseg_ray.cli.progress import SegmentProgress
from covseg_ray.engine.bulk.run import Request, segment
from covseg_ray.storage.runs.result_table import SCHEMA

pytestmark = pytest.mark.usefixtures("ray_session")

REASONS_OF_A_RUN = DICOM_REASONS | {"decoder-crashed", "decoder-hung", "not-an-image", "empty"}
STATUS, REASON, MASK = (SCHEMA.get_field_index(name) for name in ("status", "reason", "mask"))


def segment_mutants(model: str, folder: Path, of_each: int) -> None:
    """As many mutated images as mutated DICOM files, in one tar."""
    rng = random.Random(8)
    images, films = image_files(), uncompressed_dicom_files() + compressed_dicom_files(folder)
    with tarfile.open(folder / "mutants.tar", "w") as tar:
        for case in range(of_each):
            for kind, data in (
                ("image", mutated(images[case % len(images)], rng)),
                ("dicom", mutated_dicom(films, case, rng)),
            ):
                member = tarfile.TarInfo(f"{kind}-{case:05d}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    out = str(folder / "out")
    summary = segment(Request(str(folder / "mutants.tar"), out, model), SegmentProgress(io.StringIO()))
    rows = rows_by_item(out)
    assert sorted(rows) == list(range(2 * of_each))
    assert {row[STATUS] for row in rows.values()} == {"ok", "rejected"}
    for row in rows.values():
        assert (row[STATUS] == "ok") == (row[MASK] is not None) == (row[REASON] is None)
    assert {row[REASON] for row in rows.values()} - {None} <= REASONS_OF_A_RUN
    assert summary["ok"] + summary["rejected"] == 2 * of_each
    print(summary["ok"], summary["reasons"])


def test_a_run_over_mutated_films(ready_bundle: str, tmp_path: Path) -> None:
    segment_mutants(ready_bundle, tmp_path, 150)


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_a_run_over_ten_thousand_of_each(ready_bundle: str, tmp_path: Path) -> None:
    segment_mutants(ready_bundle, tmp_path, 10_000)
