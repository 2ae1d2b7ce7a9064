from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pydicom
import pytest
from dicom_films import DEEP_HW, INSTANCE_UID, SECRET, encoded, film
from endpoints import Counts, InProcess, served
from PIL import Image, ImageDraw
from starlette.testclient import TestClient

from covseg_ray.radiograph.frontal_check import LEVEL, frontal
from covseg_ray.radiograph.geometry import standardise
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.service import openapi
from covseg_ray.service.app import create_app
from covseg_ray.service.backend import OverloadedError, Settings, UnavailableError
from covseg_ray.service.schema import Film, FilmList, ModelInfo, RejectedFilm, RleMask

FILM_HW = make_phantom(1, 0, 150).image[:, :120]
PNG = encode_png(FILM_HW)


def by_hand(bundle: Bundle, film_HW: np.ndarray) -> np.ndarray:
    """The mask at the film's own size: Pillow to the square, the network, and the nearest pixel back."""
    side = bundle.spec.input_size
    square = np.asarray(Image.fromarray(film_HW).resize((side, side), Image.Resampling.BILINEAR))
    found = BatchPredictor(bundle).predict(square[None])[0] == bundle.spec.infection
    height, width = film_HW.shape
    rows = [int((row + 0.5) * side / height) for row in range(height)]
    columns = [int((column + 0.5) * side / width) for column in range(width)]
    return found[np.ix_(rows, columns)].astype(np.uint8)


def read_png(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture(scope="module")
def expected(bundle: Bundle) -> np.ndarray:
    mask_HW = by_hand(bundle, FILM_HW)
    assert 0.05 < mask_HW.mean() < 0.95
    return mask_HW


def test_json_has_the_mask_and_what_is_measured_on_it(client: TestClient, bundle: Bundle, expected: np.ndarray) -> None:
    answer = client.post("/v1/segment", content=PNG)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    document = answer.json()
    assert (document["status"], document["name"]) == ("ok", None)
    assert (document["height"], document["width"]) == (150, 120)
    np.testing.assert_array_equal(read_png(base64.b64decode(document["mask"]["data"])), expected)
    assert document["infection_fraction"] == expected.sum() / expected.size
    assert document["frontal"] == frontal(*standardise(FILM_HW, bundle.spec.input_size))
    assert document["input_sha256"] == hashlib.sha256(PNG).hexdigest()
    assert document["model"] == {"name": "default", "model_id": bundle.model_id}
    assert (document["lung_fraction"], document["severity"], document["dicom"]) == (None, None, False)
    assert document["expected_iou"] is None
    assert set(document["timing_ms"]) == {"decode", "predict", "render"}
    assert "picture" not in document


def test_json_has_the_expected_iou_where_the_model_has_a_curve(bundle: Bundle, counts: Counts) -> None:
    """On the square that the model takes, as Pillow makes it."""
    side = bundle.spec.input_size
    square_SS = np.asarray(Image.fromarray(FILM_HW).resize((side, side), Image.Resampling.BILINEAR))
    (classes_SS,), (levels_SS,) = BatchPredictor(bundle).predict_probabilities(square_SS[None])
    found_SS, p_SS, smooth = classes_SS == bundle.spec.infection, levels_SS / 255, side * side / 1000
    agreement = (p_SS[found_SS].sum() + smooth) / (found_SS.sum() + p_SS[~found_SS].sum() + smooth)
    spec = bundle.spec.model_copy(update={"expected_iou": ((0.0, 0.2), (1.0, 0.8))})
    with TestClient(
        create_app(InProcess(replace(bundle, spec=spec)), Settings(), counts), client=("127.0.0.1", 1)
    ) as client:
        document = client.post("/v1/segment", content=PNG).json()
    assert document["expected_iou"] == pytest.approx(0.2 + 0.6 * agreement, rel=1e-9)


def test_what_does_not_look_like_a_chest_film_is_segmented_and_reported(client: TestClient) -> None:
    document = client.post("/v1/segment", content=encode_png(np.ascontiguousarray(FILM_HW[::-1]))).json()
    assert (document["status"], document["frontal_level"]) == ("ok", LEVEL)
    assert 0 < document["frontal"] < LEVEL


def test_what_does_not_look_like_a_chest_film_is_rejected_on_demand(client: TestClient, counts: Counts) -> None:
    flipped = encode_png(np.ascontiguousarray(FILM_HW[::-1]))
    value = client.post("/v1/segment?unlike=mask", content=flipped).json()["frontal"]
    said = f"frontal {value:.4f}, below 0.005: it does not look like a frontal chest film"
    for accept in ("application/json", "image/png", "application/dicom"):
        answer = client.post("/v1/segment?unlike=reject", content=flipped, headers={"accept": accept})
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert (error["reason"], error["detail"]) == ("not-frontal", said)
    assert counts.reasons["not-frontal"] == 3
    answer = client.post("/v1/segment?unlike=keep", content=flipped)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "bad-query")


def test_a_chest_film_passes_the_check_and_others_of_its_form_have_their_reason(client: TestClient) -> None:
    """A phantom that passes, its negative, and a broken file."""
    chest_HW = make_phantom(1, 3, 150).image
    files = [
        ("films", ("chest.png", encode_png(chest_HW))),
        ("films", ("negative.png", encode_png(255 - chest_HW))),
        ("films", ("cut.png", PNG[:300])),
    ]
    first, second, third = client.post("/v1/segment?unlike=reject", files=files).json()["films"]
    assert first["status"] == "ok"
    assert first["mask"] == client.post("/v1/segment", content=encode_png(chest_HW)).json()["mask"]
    assert {name: second[name] for name in ("status", "name", "reason")} == {
        "status": "rejected",
        "name": "negative.png",
        "reason": "not-frontal",
    }
    assert (third["status"], third["reason"]) == ("rejected", "truncated")


def test_contours_enclose_the_mask(client: TestClient, expected: np.ndarray) -> None:
    """Filled by Pillow, twice as large so that every corner is a whole number; even-odd, as holes have contours too."""
    contours = client.post("/v1/segment", content=PNG).json()["contours"]
    filled = np.zeros((expected.shape[0] * 2, expected.shape[1] * 2), bool)
    for contour in contours:
        assert contour[0] == contour[-1]
        canvas = Image.new("1", (filled.shape[1], filled.shape[0]))
        ImageDraw.Draw(canvas).polygon([(2 * x - 0.5, 2 * y - 0.5) for x, y in contour], fill=1, outline=0)
        filled ^= np.asarray(canvas)
    assert (filled[::2, ::2] != expected).mean() < 0.02


def test_the_mask_as_run_lengths(client: TestClient, expected: np.ndarray) -> None:
    mask = client.post("/v1/segment?mask=rle", content=PNG).json()["mask"]
    assert (mask["encoding"], mask["size"]) == ("coco-rle", [150, 120])
    values = np.repeat(np.arange(len(mask["counts"])) % 2, mask["counts"])
    np.testing.assert_array_equal(values.reshape(120, 150).T, expected)


@pytest.mark.parametrize("accept", ["image/png", "image/*;q=0.9, application/json;q=0.1", "text/html, image/png;q=0.5"])
def test_png_is_the_mask(client: TestClient, expected: np.ndarray, accept: str) -> None:
    answer = client.post("/v1/segment", content=PNG, headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    image = Image.open(io.BytesIO(answer.content))
    assert image.mode == "1"
    np.testing.assert_array_equal(np.asarray(image), expected)


def test_the_overlay_is_the_film_with_colour_on_the_mask(client: TestClient, expected: np.ndarray) -> None:
    answer = client.post("/v1/segment?view=overlay", content=PNG, headers={"accept": "image/png"})
    drawn = read_png(answer.content).astype(int)
    coloured = (drawn[..., 0] != drawn[..., 1]) | (drawn[..., 1] != drawn[..., 2])
    np.testing.assert_array_equal(drawn[expected == 0], np.repeat(FILM_HW[expected == 0][:, None], 3, axis=1))
    assert coloured[expected == 1].mean() > 0.9


def test_the_picture_is_the_film(client: TestClient) -> None:
    document = client.post("/v1/segment?picture=true", content=PNG).json()
    np.testing.assert_array_equal(read_png(base64.b64decode(document["picture"])), FILM_HW)


def test_dicom_in_and_a_segmentation_out(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    source = encoded(film(DEEP_HW))
    with caplog.at_level(logging.DEBUG):
        document = client.post("/v1/segment", content=source).json()
        answer = client.post("/v1/segment", content=source, headers={"accept": "application/dicom"})
    assert document["dicom"] is True
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom")
    segmentation = pydicom.dcmread(io.BytesIO(answer.content))
    assert segmentation.SOPClassUID == pydicom.uid.SegmentationStorage
    assert (
        segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == INSTANCE_UID
    )
    mask_HW = read_png(base64.b64decode(document["mask"]["data"]))
    np.testing.assert_array_equal(np.squeeze(segmentation.pixel_array), mask_HW)
    assert SECRET not in json.dumps(document)
    assert SECRET not in caplog.text


def test_a_segmentation_needs_a_dicom_film(client: TestClient) -> None:
    answer = client.post("/v1/segment", content=PNG, headers={"accept": "application/dicom"})
    assert answer.status_code == 422
    assert answer.json()["error"]["reason"] == "no-dicom-seg"


def test_a_form_of_several_films_is_answered_in_order(client: TestClient, expected: np.ndarray) -> None:
    files = [("films", ("one.png", PNG)), ("films", ("cut.png", PNG[:300])), ("more", ("none.txt", b"hello"))]
    answer = client.post("/v1/segment", files=files)
    assert answer.status_code == 200
    first, second, third = answer.json()["films"]
    assert (first["name"], first["status"]) == ("one.png", "ok")
    np.testing.assert_array_equal(read_png(base64.b64decode(first["mask"]["data"])), expected)
    assert (second["name"], second["status"], second["reason"]) == ("cut.png", "rejected", "truncated")
    assert (third["name"], third["status"], third["reason"]) == ("none.txt", "rejected", "not-an-image")


def test_a_form_of_one_film_can_be_had_as_png(client: TestClient, expected: np.ndarray) -> None:
    answer = client.post("/v1/segment", files={"film": ("a.png", PNG)}, headers={"accept": "image/png"})
    np.testing.assert_array_equal(read_png(answer.content), expected)


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "reason"),
    [
        ("POST", "/v1/segment", {"content": b""}, 422, "empty"),
        ("POST", "/v1/segment", {"content": b"<html>"}, 415, "not-an-image"),
        ("POST", "/v1/segment", {"content": PNG[:500]}, 422, "truncated"),
        ("POST", "/v1/segment", {"content": encode_png(np.zeros((1001, 1000), np.uint8))}, 422, "too-large"),
        ("POST", "/v1/segment", {"content": bytes(2**20 + 1)}, 413, "body-too-large"),
        ("POST", "/v1/segment", {"content": iter([bytes(2**19)] * 3)}, 413, "body-too-large"),
        ("POST", "/v1/segment", {"files": {"a": ("a.png", bytes(2**20))}}, 413, "body-too-large"),
        ("POST", "/v1/segment", {"files": [("a", (f"{n}.png", PNG)) for n in range(4)]}, 400, "bad-form"),
        (
            "POST",
            "/v1/segment",
            {"data": {"a": "b"}, "headers": {"content-type": "multipart/form-data"}},
            400,
            "bad-form",
        ),
        ("POST", "/v1/segment?mask=polygon", {"content": PNG}, 400, "bad-query"),
        ("POST", "/v1/segment?model=other", {"content": PNG}, 404, "unknown-model"),
        ("POST", "/v1/segment", {"content": PNG, "headers": {"accept": "text/html"}}, 406, "not-acceptable"),
        ("POST", "/v1/segment", {"content": PNG, "headers": {"accept": "*/*;q=0"}}, 406, "not-acceptable"),
        (
            "POST",
            "/v1/segment",
            {"files": [("a", ("1.png", PNG)), ("a", ("2.png", PNG))], "headers": {"accept": "image/png"}},
            406,
            "not-acceptable",
        ),
        ("GET", "/v1/segment", {}, 405, "method-not-allowed"),
        ("DELETE", "/v1/model", {}, 405, "method-not-allowed"),
        ("GET", "/v1/nothing", {}, 404, "not-found"),
        ("GET", "/page/../app.py", {}, 404, "not-found"),
    ],
)
def test_what_is_refused(
    client: TestClient, method: str, path: str, sent: Mapping[str, Any], status: int, reason: str
) -> None:
    answer = client.request(method, path, **sent)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)
    error = answer.json()["error"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["detail"]
    assert "\n" not in error["detail"]
    assert client.post("/v1/segment", content=PNG).status_code == 200


@pytest.mark.parametrize(
    ("error", "reason"), [(OverloadedError(2.5), "overloaded"), (UnavailableError("none"), "no-model")]
)
def test_503_says_when_to_come_again(client: TestClient, predict: InProcess, error: Exception, reason: str) -> None:
    predict.fails.append(error)
    answer = client.post("/v1/segment", content=PNG)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (503, reason)
    assert int(answer.headers["retry-after"]) >= 2
    assert client.post("/v1/segment", content=PNG).status_code == 200


def test_more_requests_than_may_be_in_flight_are_refused_before_they_are_read(
    predict: InProcess, counts: Counts
) -> None:
    with served(predict, Settings(max_requests=2)) as url:
        host, port = url.removeprefix("http://").split(":")
        head = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PNG)}\r\n\r\n".encode()
        held = [socket.create_connection((host, int(port))) for _ in range(2)]
        for each in held:
            each.sendall(head + PNG[:50])
        with httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
            while (refused := client.post("/v1/segment", content=PNG)).status_code == 200:
                time.sleep(0.01)  # those held have not arrived yet
            assert (refused.status_code, refused.json()["error"]["reason"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/readyz").status_code == 200
            held[0].sendall(PNG[50:])
            assert held[0].recv(12) == b"HTTP/1.1 200"
            held[1].close()
            deadline = time.monotonic() + 20
            while client.post("/v1/segment", content=PNG).status_code != 200:
                assert time.monotonic() < deadline, "a place is not given back"
        held[0].close()


def test_a_failure_of_the_server_shows_no_more_than_its_id(client: TestClient, predict: InProcess) -> None:
    predict.fails.append(ValueError(SECRET))
    answer = client.post("/v1/segment", content=PNG)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (500, "failed")
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    assert SECRET not in answer.text


def test_request_ids_are_kept_where_they_are_sound(client: TestClient) -> None:
    assert client.get("/healthz", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for unsound in ("a b", "x" * 65, "<i>", ""):
        made = client.get("/healthz", headers={"x-request-id": unsound}).headers["x-request-id"]
        assert len(made) == 32
        assert made != unsound


def test_the_log_holds_neither_names_nor_queries(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "covseg_ray.service"):
        client.post(f"/v1/segment?model={SECRET}", content=PNG)
        client.post("/v1/segment", files={"film": (f"{SECRET}.png", PNG)})
        client.get(f"/{SECRET}")
    assert SECRET not in "".join(
        record.getMessage() for record in caplog.records if record.name == "covseg_ray.service"
    )
    assert [record.getMessage().split()[:3] for record in caplog.records if record.name == "covseg_ray.service"] == [
        ["POST", "/v1/segment", "404"],
        ["POST", "/v1/segment", "200"],
        ["GET", "unknown", "404"],
    ]


def test_counts_for_monitoring(client: TestClient, counts: Counts, expected: np.ndarray) -> None:
    client.post("/v1/segment", content=PNG)
    client.post("/v1/segment", content=PNG[:300])
    assert counts.requests == [("/v1/segment", 200), ("/v1/segment", 422)]
    assert counts.reasons == {"truncated": 1}
    assert counts.fractions == [expected.mean()]


def test_models_health_and_pages(client: TestClient, bundle: Bundle) -> None:
    (model,) = client.get("/v1/model").json()["models"]
    assert (model["name"], model["model_id"], model["input_size"]) == ("default", bundle.model_id, 64)
    assert set(model) == set(ModelInfo.model_fields)
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    for path in ("/", "/docs", "/page/docs.js", "/docs/assets/swagger-ui.css", "/docs/assets/swagger-ui-bundle.js"):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_description_shows_what_is_answered(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    operation = description["paths"]["/v1/segment"]["post"]
    assert {"application/dicom", "image/png", "multipart/form-data"} < set(operation["requestBody"]["content"])
    assert {"200", "400", "401", "404", "406", "408", "413", "415", "422", "503"} <= set(operation["responses"])
    shown = operation["responses"]["200"]["content"]["application/json"]["examples"]["one film"]["value"]
    assert list(shown) == list(client.post("/v1/segment", content=PNG).json())
    assert shown["severity"] is None
    rejected = client.post("/v1/segment", files={"a": ("a.png", PNG[:300])}).json()["films"][0]
    assert list(openapi.REJECTED.model_dump()) == list(rejected)


def test_the_schema_reads_what_is_answered_and_writes_the_same_bytes(client: TestClient) -> None:
    """And nothing is left out: an unknown key would be lost on the way."""
    for query in ("", "?mask=rle", "?picture=true"):
        body = client.post(f"/v1/segment{query}", content=PNG).content
        assert Film.model_validate_json(body).to_json() == body
    body = client.post("/v1/segment", files=[("a", ("ä.png", PNG)), ("a", ("b.png", PNG[:300]))]).content
    form = FilmList.model_validate_json(body)
    assert (form.to_json(), [type(film) for film in form.films]) == (body, [Film, RejectedFilm])


def test_the_example_agrees_with_itself() -> None:
    film = openapi.FILM
    assert isinstance(film.mask, RleMask)
    values = np.repeat(np.arange(len(film.mask.counts)) % 2, film.mask.counts)
    assert (film.height, film.width) == film.mask.size
    assert values.size == film.height * film.width
    assert values.mean() == film.infection_fraction
    rows, columns = np.nonzero(values.reshape(8, 8).T)
    xs, ys = zip(*film.contours[0], strict=True)
    assert (min(xs), max(xs)) == (columns.min(), columns.max() + 1)
    assert (min(ys), max(ys)) == (rows.min(), rows.max() + 1)


@pytest.fixture
def guarded(predict: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TestClient, Path]:
    monkeypatch.setenv("COVSEG_API_KEYS", "k" * 20)
    file = tmp_path / "keys"
    file.write_text(f"# two people\n{'a' * 16}\n\n {'b' * 17} \n")
    return TestClient(create_app(predict, Settings(keys_file=str(file)), Counts())), file


def test_without_keys_only_this_machine_is_answered(predict: InProcess) -> None:
    app = create_app(predict, Settings(), Counts())
    for host, expected_status in (("127.0.0.1", 200), ("::1", 200), ("10.0.0.7", 401), ("127.0.0.1.example.org", 401)):
        answer = TestClient(app, client=(host, 50000)).get("/v1/model")
        assert answer.status_code == expected_status, host
    assert answer.json()["error"]["reason"] == "no-keys-set"
    for header in ("X-Forwarded-For", "Forwarded"):  # a proxy on this machine speaks for somebody else
        answer = TestClient(app, client=("127.0.0.1", 50000)).get("/v1/model", headers={header: "for=127.0.0.1"})
        assert answer.status_code == 401, header


def status(client: TestClient, authorization: str | None) -> int:
    headers = {} if authorization is None else {"authorization": authorization}
    return client.get("/v1/model", headers=headers).status_code


def test_keys_of_file_and_environment_open(guarded: tuple[TestClient, Path]) -> None:
    client, _ = guarded
    for key in ("k" * 20, "a" * 16, "b" * 17):
        assert status(client, f"Bearer {key}") == 200
        assert client.post("/v1/segment", content=PNG, headers={"authorization": f"bearer {key}"}).status_code == 200
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {'a' * 16}",
        f"Bearer {'a' * 15}",
        f"Bearer {'a' * 17}",
        "a" * 16,
    ):
        assert status(client, wrong) == 401
    refused = client.post("/v1/segment", content=PNG)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    for path in ("/", "/healthz", "/readyz", "/docs"):
        assert client.get(path).status_code == 200


def test_keys_are_revoked_by_changing_their_file(guarded: tuple[TestClient, Path]) -> None:
    client, file = guarded
    assert status(client, f"Bearer {'a' * 16}") == 200
    file.write_text(f"{'c' * 16}\n")
    assert [status(client, f"Bearer {key}") for key in ("a" * 16, "c" * 16, "k" * 20)] == [401, 200, 200]
    file.unlink()
    assert [status(client, f"Bearer {key}") for key in ("c" * 16, "k" * 20)] == [401, 200]
