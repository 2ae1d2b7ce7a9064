"""An archive of every kind of input, from a folder to a table in which each stands once."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import ray
from archive_films import archive_of_all_kinds
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from covseg_ray.cli.main import app
from covseg_ray.engine.bulk import pipeline as archive_engine
from covseg_ray.engine.bulk import run as segment_engine
from covseg_ray.engine.bulk.run import Request, segment
from covseg_ray.engine.bundle_io import load_bundle, save_bundle
from covseg_ray.errors import BusyError, CovsegError, ModelError, TooManyRejectsError, UsageError
from covseg_ray.radiograph.frontal_check import LEVEL, frontal
from covseg_ray.radiograph.geometry import standardise
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.storage.filesystem import list_files, read_bytes
from covseg_ray.storage.lease import hold

pytestmark = pytest.mark.usefixtures("ray_session")


class RecordedProgress:
    def __init__(self) -> None:
        self.counts: list[int] = []
        self.begun: list[tuple[int, int, Mapping[str, int]]] = []
        self.updates: list[tuple[int, Mapping[str, int], int]] = []

    def listed(self, inputs: int) -> None:
        self.counts.append(inputs)

    def begin(self, total: int, done: int, reasons: Mapping[str, int]) -> None:
        self.begun.append((total, done, reasons))

    def update(self, ok: int, reasons: Mapping[str, int], actors: int) -> None:
        self.updates.append((ok, reasons, actors))


class Done:
    """A finished run: what it was, its progress, and its table by image id."""

    def __init__(self, request: Request) -> None:
        self.request, self.progress = request, RecordedProgress()
        self.summary = segment(request, self.progress)
        self.rows = rows_of(request.out)


def rows_of(out: str) -> dict[str, dict[str, Any]]:
    names = [name for name in list_files(out) if name.startswith("results/")]
    tables = [pq.read_table(io.BytesIO(read_bytes(f"{out}/{name}"))).to_pylist() for name in names]
    rows = [row for table in tables for row in table]
    assert sorted(row["item"] for row in rows) == list(range(len(rows)))
    return {row["image_id"]: row for row in rows}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    archive_of_all_kinds(folder)
    return folder


@pytest.fixture(scope="module")
def done(ready_bundle: str, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    out = str(tmp_path_factory.mktemp("out") / "run")
    return Done(Request(str(archive), out, ready_bundle, ("masks", "overlays", "dicom-seg")))


def expected(bundle: Bundle, pixels_HW: NDArray[Any]) -> NDArray[np.bool_]:
    """The mask by Pillow and the pixel-centre rule."""
    grey_HW = pixels_HW.astype(np.float32)
    if pixels_HW.dtype == np.uint16:
        grey_HW = (grey_HW - grey_HW.min()) * np.float32(255 / (grey_HW.max() - grey_HW.min()))
    film = Image.fromarray(pixels_HW if pixels_HW.dtype == np.uint8 else grey_HW)
    square_SS = np.asarray(film.resize((64, 64), Image.Resampling.BILINEAR)).round().clip(0, 255).astype(np.uint8)
    found_SS = BatchPredictor(bundle).predict(square_SS[None])[0] == bundle.spec.infection
    rows, columns = ((np.arange(n) + 0.5) * 64 // n for n in pixels_HW.shape)
    return found_SS[rows.astype(int)][:, columns.astype(int)]


def test_every_input_stands_once_with_its_mask_or_its_reason(done: Done, archive: Path, ready_bundle: str) -> None:
    films = archive_of_all_kinds(archive)
    bundle = load_bundle(ready_bundle)
    assert set(done.rows) == set(films)
    for image_id, film in films.items():
        row = done.rows[image_id]
        if isinstance(film, str):
            assert (row["status"], row["reason"]) == ("rejected", film), image_id
            assert row["mask"] is None
            continue
        assert (row["status"], row["reason"]) == ("ok", None), (image_id, row["detail"])
        assert (row["height"], row["width"]) == film.shape
        mask_HW = np.asarray(Image.open(io.BytesIO(row["mask"])))
        np.testing.assert_array_equal(mask_HW, expected(bundle, film), err_msg=image_id)
        assert row["infection_fraction"] == pytest.approx(mask_HW.mean(), abs=1e-12)
        assert row["model_id"] == bundle.model_id


def test_a_negative_film_has_the_mask_of_its_positive_twin(done: Done) -> None:
    twins = [done.rows[f"dicom/{kind}.dcm"] for kind in ("monochrome1", "monochrome2")]
    assert twins[0]["mask"] == twins[1]["mask"]
    assert twins[0]["input_sha256"] != twins[1]["input_sha256"]
    assert [twin["sop_instance_uid"] for twin in twins] == ["1.2.826.0.1.3680043.8.498.1"] * 2


def test_the_summary_counts_what_the_table_holds(done: Done) -> None:
    reasons = [row["reason"] for row in done.rows.values() if row["reason"]]
    assert done.summary["ok"] == sum(row["status"] == "ok" for row in done.rows.values())
    assert done.summary["rejected"] == len(reasons)
    assert done.summary["reasons"] == {reason: reasons.count(reason) for reason in reasons}
    assert json.loads(read_bytes(f"{done.request.out}/summary.json")) == done.summary
    assert done.summary["films_per_second"] == pytest.approx(len(done.rows) / done.summary["seconds"])
    assert done.progress.begun == [(len(done.rows), 0, {})]
    assert done.progress.counts[-1] == len(done.rows)


def test_films_unlike_a_chest_film_are_counted_and_not_refused(done: Done, archive: Path) -> None:
    judged = {
        image_id: np.float32(frontal(*standardise(film, 64)))
        for image_id, film in archive_of_all_kinds(archive).items()
        if not isinstance(film, str)
    }
    assert {image_id: row["frontal"] for image_id, row in done.rows.items() if row["status"] == "ok"} == judged
    assert all(row["frontal"] is None for row in done.rows.values() if row["status"] == "rejected")
    unlike = sum(value < LEVEL for value in judged.values())
    assert 0 < unlike < len(judged), "corners of phantoms are in the archive"
    assert (done.summary["not_frontal"], done.summary["frontal_level"]) == (unlike, LEVEL)
    page = read_bytes(f"{done.request.out}/report.html").decode()
    assert f"{unlike} of {len(judged)} films" in page
    assert page.count("<figcaption><b>") == len(judged) + min(unlike, 6)


def test_films_unlike_a_chest_film_are_rejected_on_demand(done: Done, tmp_path: Path) -> None:
    """The same archive with the option: each film that fails the check has its reason and its number, and no mask."""
    again = Done(replace(done.request, out=str(tmp_path / "run"), reject_unlike=True))
    unlike = {
        image_id for image_id, row in done.rows.items() if row["status"] == "ok" and row["frontal"] < np.float32(LEVEL)
    }
    for image_id, row in again.rows.items():
        if image_id not in unlike:
            assert row == done.rows[image_id]
            continue
        assert (row["status"], row["reason"], row["mask"]) == ("rejected", "not-frontal", None)
        assert row["detail"].startswith(f"frontal {row['frontal']:.4f}, below 0.005")
        assert (row["frontal"], row["height"]) == tuple(done.rows[image_id][name] for name in ("frontal", "height"))
        assert (row["infection_fraction"], row["severity"]) == (None, None)
    assert set(again.rows) == set(done.rows)
    assert again.summary["reasons"] == done.summary["reasons"] | {"not-frontal": len(unlike)}
    assert again.summary["ok"] == done.summary["ok"] - len(unlike)
    assert again.summary["not_frontal"] == 0
    page = read_bytes(f"{again.request.out}/report.html").decode()
    assert "Every film looks like a frontal chest film." in page
    files = list_files(again.request.out)
    assert not [name for name in files if any(name.startswith(f"masks/{image_id}.") for image_id in unlike)]


def test_rejects_of_the_frontal_check_count_as_others_do(done: Done, tmp_path: Path) -> None:
    """As many rejects as the archive has without the check are allowed: with it they are too many."""
    allowed = str(done.summary["rejected"])
    request = replace(done.request, out=str(tmp_path / "run"), write=(), max_rejects=allowed, reject_unlike=True)
    with pytest.raises(TooManyRejectsError, match=f"--max-rejects allows {allowed}"):
        segment(request, RecordedProgress())
    with pytest.raises(UsageError, match="holds another run: reject_unlike was True, is False"):
        segment(replace(request, reject_unlike=False), RecordedProgress())


def test_the_command_rejects_what_is_no_chest_film_and_exits_with_3(ready_bundle: str, tmp_path: Path) -> None:
    film_HW = make_phantom(1, 3, 128).image
    (tmp_path / "films").mkdir()
    Image.fromarray(film_HW).save(tmp_path / "films/chest.png")
    Image.fromarray(255 - film_HW).save(tmp_path / "films/negative.png")
    words = ["segment", str(tmp_path / "films"), str(tmp_path / "out"), "--model", ready_bundle]
    shown = CliRunner().invoke(app, [*words, "--reject-unlike", "--json"])
    assert shown.exit_code == 3, shown.output
    document = json.loads(shown.stdout)
    assert (document["ok"], document["rejected"], document["reasons"]) == (1, 1, {"not-frontal": 1})
    assert "1 not-frontal" in CliRunner().invoke(app, [*words, "--reject-unlike"]).stdout
    assert isinstance(CliRunner().invoke(app, words).exception, UsageError)


def test_the_report_shows_the_films_to_look_at_first(done: Done, ready_bundle: str, tmp_path: Path) -> None:
    """By a curve of the reverse order of agreement, so that no two ways of sorting agree; without a curve, none."""
    assert all(row["expected_iou"] is None for row in done.rows.values())
    assert "Look at these first" not in read_bytes(f"{done.request.out}/report.html").decode()
    bundle, model = load_bundle(ready_bundle), str(tmp_path / "model")
    save_bundle(model, replace(bundle, spec=bundle.spec.model_copy(update={"expected_iou": ((0.0, 1.0), (1.0, 0.0))})))
    again = Done(replace(done.request, out=str(tmp_path / "run"), model=model))
    for image_id, row in again.rows.items():
        assert row | {"expected_iou": None} == done.rows[image_id]
        assert (row["expected_iou"] is None) == (row["status"] == "rejected")
    infected = [row for row in again.rows.values() if row["infection_fraction"]]
    first = sorted(infected, key=lambda row: (row["expected_iou"], row["item"]))[:6]
    section = read_bytes(f"{again.request.out}/report.html").decode().partition("Look at these first")[2]
    shown = re.findall(r'expected IoU <b>([\d.]+)</b>.*?<bdi title="([^"]*)">', section)
    assert shown == [(f"{row['expected_iou']:.2f}", row["image_id"]) for row in first]


def test_files_beside_the_table_belong_to_the_films_that_have_a_mask(done: Done) -> None:
    files = list_files(done.request.out)
    good = [image_id for image_id, row in done.rows.items() if row["status"] == "ok"]
    for folder in ("masks", "overlays"):
        assert sorted(f"{folder}/{image_id}.png" for image_id in good) == [f for f in files if f.startswith(folder)]
    for image_id in good:
        assert read_bytes(f"{done.request.out}/masks/{image_id}.png") == done.rows[image_id]["mask"]
    segmentations = [name for name in files if name.startswith("dicom-seg/")]
    assert segmentations == [f"dicom-seg/dicom/{kind}.dcm.dcm" for kind in ("monochrome1", "monochrome2")]
    for name in segmentations:
        found = pydicom.dcmread(io.BytesIO(read_bytes(f"{done.request.out}/{name}")))
        row = done.rows[name.removeprefix("dicom-seg/").removesuffix(".dcm")]
        np.testing.assert_array_equal(found.pixel_array, np.asarray(Image.open(io.BytesIO(row["mask"]))))
    page = read_bytes(f"{done.request.out}/report.html").decode()
    assert page.startswith("<!doctype html>")
    assert "Zwackelmann" not in page


def test_no_patients_name_is_in_any_result(done: Done) -> None:
    for name in list_files(done.request.out):
        if not name.startswith("dicom-seg/"):  # which has to name the patient of its film
            assert b"Zwackelmann" not in read_bytes(f"{done.request.out}/{name}"), name


def test_given_again_a_finished_run_writes_nothing(done: Done) -> None:
    before = {name: read_bytes(f"{done.request.out}/{name}") for name in list_files(done.request.out)}
    progress = RecordedProgress()
    assert segment(done.request, progress) == done.summary
    assert progress.begun == []
    assert {name: read_bytes(f"{done.request.out}/{name}") for name in list_files(done.request.out)} == before


def test_another_run_is_refused_with_the_differences(done: Done, ready_bundle: str, tmp_path: Path) -> None:
    bundle = load_bundle(ready_bundle)
    state = {name: tensor * 1.01 if "weight" in name else tensor for name, tensor in bundle.state.items()}
    changed = Bundle(bundle.spec, state)
    save_bundle(str(tmp_path), changed)
    request = Request(done.request.source, done.request.out, str(tmp_path), ("masks",))
    with pytest.raises(UsageError) as refused:
        segment(request, RecordedProgress())
    assert f"model_id was '{bundle.model_id}', is '{changed.model_id}'" in str(refused.value)
    assert "write was ('masks', 'overlays', 'dicom-seg'), is ('masks',)" in str(refused.value)


def test_an_output_that_is_held_is_left_alone(ready_bundle: str, archive: Path, tmp_path: Path) -> None:
    with hold(str(tmp_path)), pytest.raises(BusyError):
        segment(Request(str(archive), str(tmp_path), ready_bundle), RecordedProgress())
    assert [name for name in list_files(str(tmp_path)) if not name.startswith(".lease")] == []


def test_too_many_rejects_end_the_run_and_a_higher_limit_goes_on(
    done: Done, ready_bundle: str, archive: Path, bucket: str
) -> None:
    request = Request(str(archive), f"{bucket}/rejects", ready_bundle, max_rejects="1")
    with pytest.raises(TooManyRejectsError, match="--max-rejects allows 1"):
        segment(request, RecordedProgress())
    assert "summary.json" not in list_files(request.out)
    again = Done(Request(str(archive), request.out, ready_bundle, max_rejects="0.9"))
    assert {key: row["mask"] for key, row in again.rows.items()} == {key: row["mask"] for key, row in done.rows.items()}
    assert again.summary["reasons"] == done.summary["reasons"]


@ray.remote(num_cpus=1)
class Neighbour:
    """Another user of the cluster, who keeps a CPU."""

    def there(self) -> bool:
        return True


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    there = [Neighbour.remote() for _ in range(count)]
    assert all(ray.get([one.there.remote() for one in there]))
    try:
        yield
    finally:
        for one in there:
            ray.kill(one)


@pytest.fixture
def half_done(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """A finished run in blocks of four films, of which every other block is gone."""
    monkeypatch.setitem(archive_engine.BLOCK_FILMS, "cpu", 4)
    request = replace(done.request, out=str(tmp_path / "half"), write=())
    segment(request, RecordedProgress())
    records = sorted((tmp_path / "half/.checkpoint").glob("*.parquet"))
    assert len(records) > 3
    for path in (*records[::2], tmp_path / "half/summary.json"):
        path.unlink()
    return request


@pytest.mark.full
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_goes_on_where_neighbours_keep_cpus(half_done: Request, done: Done, count: int) -> None:
    """Four CPUs: the neighbours have one or two, the actor that leaves out what is done another. As many that predict
    as on an empty cluster, and none would be left to list the films: nothing would ever move."""
    with neighbours(count):
        again = Done(half_done)
    assert {key: row["mask"] for key, row in again.rows.items()} == {key: row["mask"] for key, row in done.rows.items()}


def test_a_run_that_stands_still_is_reported_in_a_line(
    done: Done, ready_bundle: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray.data.DataContext.get_current(), "execution_no_progress_timeout_s", 3.0)
    said = r"no progress for .* 0 of the cluster's \d+ CPUs are free"
    with neighbours(int(ray.cluster_resources()["CPU"])), pytest.raises(CovsegError, match=said):
        segment(Request(str(archive), str(tmp_path), ready_bundle), RecordedProgress())


def test_a_model_that_a_node_cannot_load_is_reported_in_a_line(
    ready_bundle: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_engine, "to_files", lambda bundle: {})
    with pytest.raises(ModelError, match=r"^bundle: model\.safetensors is missing[^\n]*$"):
        segment(Request(str(archive), str(tmp_path), ready_bundle), RecordedProgress())


@pytest.mark.parametrize(("text", "most"), [(None, None), ("0", 0), ("20", 20), ("0.25", 50), ("0.", 0), ("1.0", 200)])
def test_a_limit_is_a_number_of_inputs_or_a_share_of_them(text: str | None, most: int | None) -> None:
    assert Request("films", "out", "model", max_rejects=text).reject_limit(200) == most


@pytest.mark.parametrize("text", ["-1", "1.5", "1e-2", "nan", "inf", ".nan", "-0.1", "", "many", "0.1.2"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"--max-rejects {text}: give a number of inputs, or a share")):
        Request("films", "out", "model", max_rejects=text)


def test_the_command_says_what_it_did(done: Done) -> None:
    words = ["segment", done.request.source, done.request.out, "--model", done.request.model]
    words += ["--write", "masks,overlays,dicom-seg"]
    shown = CliRunner().invoke(app, [*words, "--json"])
    assert shown.exit_code == 3, "some were rejected"
    document = json.loads(shown.stdout)
    assert set(document) == {"ok", "rejected", "reasons", "films_per_second", "out"}
    assert document["ok"] == done.summary["ok"]
    line = f"{done.summary['not_frontal']} not like a frontal chest film (frontal below 0.005)"
    assert line in CliRunner().invoke(app, words).stdout


def test_a_dry_run_counts_and_writes_nothing(done: Done, tmp_path: Path) -> None:
    words = ["segment", done.request.source, str(tmp_path / "out"), "--model", done.request.model, "--dry-run"]
    shown = CliRunner().invoke(app, [*words, "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert document["inputs"] == len(done.rows)
    assert document["seconds"] == pytest.approx(
        (document["inputs"] - sum(document["refused"].values())) / document["films_per_second"]
    )
    assert not (tmp_path / "out").exists()
    assert "nothing was written" in CliRunner().invoke(app, words).stdout


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("--write", "mask", "masks, overlays"), ("--max-rejects", "1.5", "share")],
)
def test_a_wrong_option_is_refused_before_anything_is_read(tmp_path: Path, option: str, value: str, named: str) -> None:
    shown = CliRunner().invoke(app, ["segment", "/no/source", str(tmp_path), "--model", "/no/model", option, value])
    assert isinstance(shown.exception, UsageError)
    assert named in str(shown.exception)


def test_an_unknown_engine_is_misuse_of_the_command_and_of_the_api(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["segment", "/no/source", str(tmp_path), "--model", "/no/model", "--engine", "tpu"])
    assert (shown.exit_code, "'tpu' is not one of 'auto', 'torch'" in shown.stderr) == (2, True)
    with pytest.raises(UsageError, match="torch"):
        Request("/no/source", str(tmp_path), "/no/model", engine="tpu")
