"""An endpoint in the tests' own Ray session: the same mask as on every other way, several models, the metrics."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from near_ties import undecided_bundle, undecided_on_phantoms
from places import ROOT
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ServeDeploySchema

from covseg_ray.api import Predictor
from covseg_ray.cli.progress import SegmentProgress
from covseg_ray.config.serve import parse, read_endpoint
from covseg_ray.engine.bulk.run import Request, segment
from covseg_ray.engine.bundle_io import load_bundle, save_bundle
from covseg_ray.engine.evaluation.run import evaluate, examples, show
from covseg_ray.engine.serving.app import build
from covseg_ray.errors import ConfigError, ModelError, StorageError
from covseg_ray.radiograph.frontal_check import load_fitted
from covseg_ray.radiograph.masks import encode_png, encode_png1
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.inference.predictor import BatchPredictor
from covseg_ray.service.client import Client
from covseg_ray.storage.datasets.read import Subset

pytestmark = pytest.mark.usefixtures("ray_session")

PORT = 8731
CURVE = ((0.3, 0.1), (0.6, 0.55), (0.9, 0.8))
LARGE = 2112  # pixels a side: 4.25 MiB of classes


@pytest.fixture(scope="module")
def with_curve(ready_bundle: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The ready bundle with a curve of the expected IoU."""
    uri, bundle = str(tmp_path_factory.mktemp("with-curve") / "bundle"), load_bundle(ready_bundle)
    save_bundle(uri, replace(bundle, spec=bundle.spec.model_copy(update={"expected_iou": CURVE})))
    return uri


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("other") / "bundle")
    save_bundle(uri, undecided_on_phantoms(96))
    return uri


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model next to free whose square is more than one message of gRPC may hold."""
    uri = str(tmp_path_factory.mktemp("large") / "bundle")
    save_bundle(uri, undecided_bundle(make_phantom(5, 0, LARGE).image[None], "linknet", "tu-test_resnet"))
    return uri


@pytest.fixture(scope="module")
def url(with_curve: str, other: str, large: str) -> Iterator[str]:
    """Three models, the trained one and two others, on this session's Ray."""
    serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host="127.0.0.1", port=PORT))
    models = {"trained": with_curve, "other": other, "large": large}
    serve.run(build({"models": models, "replicas": [1, 1]}), name="covseg-ray", route_prefix="/")
    yield f"http://127.0.0.1:{PORT}"
    serve.shutdown()


def test_the_same_film_has_the_same_mask_on_all_three_ways(
    ready_bundle: str, phantoms: str, url: str, tmp_path: Path
) -> None:
    bundle = load_bundle(ready_bundle)
    found = evaluate(bundle, Subset(phantoms))
    evaluated = show(bundle, phantoms, found, examples(found.counts_N4, 60))
    assert len(evaluated) > 10
    assert sum(film.predicted_HW.any() for film in evaluated) > 5
    source, out = tmp_path / "films", str(tmp_path / "out")
    source.mkdir()
    for index, film in enumerate(evaluated):
        (source / f"{index:03d}.png").write_bytes(encode_png(film.image_HW))
    segment(Request(str(source), out, ready_bundle), SegmentProgress(io.StringIO()))
    rows = {row["image_id"]: row for row in pq.read_table(f"{out}/results").to_pylist()}
    with Client(url) as client:
        for index, film in enumerate(evaluated):
            data = (source / f"{index:03d}.png").read_bytes()
            row = rows[f"{index:03d}.png"]
            assert client.mask(data) == row["mask"] == encode_png1(film.predicted_HW)
            answer = client.segment(data)
            assert answer.infection_fraction == row["infection_fraction"] == film.predicted_HW.mean()
            assert np.float32(answer.frontal) == row["frontal"] == np.float32(load_fitted().p_value(film.image_HW))


def test_the_same_film_has_the_same_expected_iou_on_all_ways(
    with_curve: str, phantoms: str, url: str, tmp_path: Path
) -> None:
    """In the result table, the endpoint's answer and Python; beside the curve by NumPy at an evaluation's agreement."""
    bundle, films = load_bundle(with_curve), Subset(phantoms)
    measured = evaluate(bundle, films)
    agreements = dict(zip(measured.image_ids, measured.agreement_N, strict=True))
    shown = show(bundle, phantoms, measured, range(12))
    source, out = tmp_path / "films", str(tmp_path / "out")
    source.mkdir()
    for index, film in enumerate(shown):
        (source / f"{index:03d}.png").write_bytes(encode_png(film.image_HW))
    (source / "cut.png").write_bytes(encode_png(shown[0].image_HW)[:200])
    segment(Request(str(source), out, with_curve), SegmentProgress(io.StringIO()))
    rows = {row["image_id"]: row["expected_iou"] for row in pq.read_table(f"{out}/results").to_pylist()}
    assert rows.pop("cut.png") is None
    assert len(set(rows.values())) > 6
    with Client(url) as client, Predictor(bundle) as predictor:
        for index, film in enumerate(shown):
            path = source / f"{index:03d}.png"
            expected = rows[path.name]
            assert client.segment(path.read_bytes()).expected_iou == expected == predictor.predict(path).expected_iou
            assert expected == pytest.approx(np.interp(agreements[film.image_id], *zip(*CURVE, strict=True)), rel=1e-12)


def test_an_answer_has_one_request_id(url: str) -> None:
    """The caller's, or a new one; the one that stands in a refusal, too."""
    for given in ({}, {"x-request-id": "one-of-ours"}):
        answer = httpx2.get(f"{url}/nowhere", headers=given, trust_env=False)
        (request_id,) = answer.headers.get_list("x-request-id")
        assert answer.json()["error"]["request_id"] == request_id
        assert request_id == given.get("x-request-id", request_id)


@pytest.mark.full
def test_a_square_larger_than_a_message_arrives_whole(url: str, large: str) -> None:
    film_HW = make_phantom(5, 0, LARGE).image
    classes_HW = BatchPredictor(load_bundle(large)).predict(film_HW[None])[0]
    assert 0.3 < classes_HW.mean() < 0.7
    headers = {"accept": "image/png"}
    with httpx2.Client(base_url=url, timeout=120, trust_env=False) as client:
        answer = client.post("/v1/segment?model=large", content=encode_png(film_HW), headers=headers)
    assert answer.content == encode_png1(classes_HW)


def test_several_models_answer_by_name(url: str, ready_bundle: str, other: str, large: str) -> None:
    uris = {"trained": ready_bundle, "other": other, "large": large}
    ids = {name: load_bundle(uri).model_id for name, uri in uris.items()}
    film = encode_png(make_phantom(1, 0, 120).image)
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        models = client.get("/v1/model").json()["models"]
        assert {model["name"]: model["model_id"] for model in models} == ids
        assert models[0]["name"] == "trained"
        for name, model_id in ids.items():
            answer = client.post(f"/v1/segment?model={name}", content=film)
            assert answer.json()["model"] == {"name": name, "model_id": model_id}
        assert client.post("/v1/segment", content=film).json()["model"]["name"] == "trained"
        assert client.post("/v1/segment?model=nobody", content=film).status_code == 404


def test_rays_metrics_carry_the_counts(url: str) -> None:
    film = encode_png(make_phantom(1, 1, 120).image)
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        assert client.post("/v1/segment", content=film).status_code == 200
        assert client.post("/v1/segment", content=film[:200]).status_code == 422
    (node,) = (node for node in ray.nodes() if node["Alive"])
    wanted = ("covseg_requests", "covseg_request_seconds", "covseg_batch_films", "covseg_rejects", "covseg_infection")
    deadline = time.monotonic() + 60
    while True:
        text = httpx2.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", trust_env=False).text
        if all(name in text for name in wanted) and 'reason="truncated"' in text:
            break
        assert time.monotonic() < deadline, [name for name in wanted if name not in text]
        time.sleep(1)


def test_a_bundle_that_cannot_be_used_is_refused_before_anything_is_deployed(
    ray_session: None, other: str, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="no bundle there"):
        build({"models": {"default": str(tmp_path)}})
    broken = load_bundle(other)
    del broken.state["segmentation_head.0.bias"]
    save_bundle(str(tmp_path / "broken"), broken)
    with pytest.raises(ModelError, match="lacks tensor"):
        build({"models": {"default": str(tmp_path / "broken")}})


def test_behind_rays_haproxy_keys_are_a_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(ConfigError, match="API keys are needed"):
        build({"models": {"default": "anywhere"}})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((None, ["a", "b"], None, None, None), "default is given twice"),
        ((None, ["m=a"], "0.0.0.0", None, None), "needs API keys"),
        ((None, ["m m=a"], None, None, None), "models"),
        (("nowhere.yaml", [], None, None, None), "cannot be read"),
    ],
)
def test_what_cannot_be_served_is_one_line_of_error(given: tuple[object, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        read_endpoint(*given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_without_a_model_it_is_that_of_the_package_and_a_file_must_name_one(tmp_path: Path) -> None:
    assert read_endpoint(None, [], None, None, None).config.models == {"default": "covid-qu-ex"}
    file = tmp_path / "serve.yaml"
    file.write_text("applications: [{name: covseg-ray, args: {replicas: [1, 2]}}]")
    with pytest.raises(ConfigError, match="no model to serve"):
        read_endpoint(str(file), [], None, None, None)


def test_the_shipped_file_is_read() -> None:
    shipped = ROOT / "jobs/serve.yaml"
    found = read_endpoint(str(shipped), ["mine=/bundles/a", "/bundles/b"], None, 8001, None)
    assert (found.host, found.port, found.config.replicas) == ("127.0.0.1", 8001, (1, 2))
    assert found.config.models == {"mine": "/bundles/a", "default": "/bundles/b"}
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(shipped.read_text())).applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert parse(application.args).models == {"default": "models/paper"}


@pytest.mark.parametrize("replicas", [(2, 1), (0, 1)])
def test_replicas_are_the_fewest_and_the_most(replicas: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(f"applications: [{{name: covseg-ray, args: {{models: {{a: b}}, replicas: {list(replicas)}}}}}]")
    with pytest.raises(ConfigError, match="replicas"):
        read_endpoint(str(file), [], None, None, None)
