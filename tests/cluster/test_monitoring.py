"""cluster/monitoring: dashboard, alerts and list of metrics speak of what a real run exports, and the numbers in it
are those counted beside it."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import promql_parser as promql
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from places import ROOT
from ray import serve
from ray._private import ray_constants
from ray._private.metrics_agent import PrometheusServiceDiscoveryWriter
from ray.serve.config import HTTPOptions
from scraped_metrics import Collector, Exported, agent, scrape
from training_runs import run_job

from covseg_ray.cli.progress import SegmentProgress
from covseg_ray.engine.bulk.run import Request, segment
from covseg_ray.engine.bundle_io import save_bundle
from covseg_ray.engine.serving.app import build
from covseg_ray.engine.telemetry import TrainingMetrics
from covseg_ray.radiograph.masks import encode_png
from covseg_ray.radiograph.phantom import make_phantom
from covseg_ray.segmentation.network.bundle import Bundle

pytestmark = pytest.mark.timeout(600)
SHIPPED = ROOT / "cluster/monitoring"
FORGOTTEN_SECONDS = 40  # two of the intervals in which Ray's processes report, and some: then a gauge not set is gone
FILM = encode_png(make_phantom(2, 0, 80).image)
RECORD = {"epoch": 3, "loss": 0.5, "val_loss": 0.75, "images_per_second": 8.0, "seconds": 2.5, "iou_all": 0.25}


@dataclass(frozen=True)
class Watched:
    """What was exported before, all the while and at the end, and what was done in between."""

    before: Exported
    seen: Exported
    last: Exported
    epochs: list[dict[str, float]]
    rows: list[dict[str, Any]]
    answers: Counter[tuple[str, str]]

    def grown(self, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        return self.seen.sums(name, *labels) - self.before.sums(name, *labels)


@ray.remote(num_cpus=0)
class Worker:
    """Tells one epoch and then lives on."""

    def __init__(self) -> None:
        self.metrics = TrainingMetrics("lives-on", "iou_all")
        self.metrics.epoch(RECORD)

    def since(self) -> float:
        return time.time()


@pytest.fixture(scope="module")
def watched(
    ray_session: None, small_job: list[str], bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    """A training of two epochs, an archive of six films and two broken ones, an endpoint that is asked six times."""
    folder = tmp_path_factory.mktemp("watched")
    save_bundle(str(folder / "bundle"), bundle)
    worker = Worker.remote()
    began = ray.get(worker.since.remote())
    with Collector() as collector:
        run = run_job([*small_job, "name=watched", "workers=1", "train.epochs=2", f"out={folder}"])
        rows = segmented(folder)
        collector.await_growth("ray_covseg_segment_films_total", len(rows))
        with endpoint(str(folder / "bundle")) as url:
            answers = answered(url)
            collector.await_growth("ray_covseg_requests_total", answers.total())
            collector.await_growth("ray_covseg_batch_films_count", 3)
        time.sleep(max(0, began + FORGOTTEN_SECONDS - time.time()))
    epochs = [json.loads(line) for line in Path(run.folder, "metrics.jsonl").read_text().splitlines()]
    yield Watched(collector.begin, collector.seen, scrape(), epochs, rows, answers)
    ray.kill(worker)


def segmented(folder: Path) -> list[dict[str, Any]]:
    """The rows of an archive's table."""
    (folder / "films").mkdir()
    for index in range(6):
        (folder / f"films/{index}.png").write_bytes(encode_png(make_phantom(4, index, 64).image))
    (folder / "films/empty.png").write_bytes(b"")
    (folder / "films/cut.png").write_bytes(FILM[:200])
    out = str(folder / "out")
    segment(Request(str(folder / "films"), out, str(folder / "bundle")), SegmentProgress(io.StringIO()))
    return pq.read_table(f"{out}/results").to_pylist()


@contextmanager
def endpoint(model: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(host="127.0.0.1", port=port))
    serve.run(build({"models": {"default": model}, "replicas": [1, 1]}), name="covseg-ray", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def answered(url: str) -> Counter[tuple[str, str]]:
    """How often an endpoint answered, by route and status."""
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        films = [client.post("/v1/segment", content=content) for content in (FILM, FILM, FILM, FILM[:200])]
        answers = Counter(("/v1/segment", str(answer.status_code)) for answer in films)
        answers["/v1/model", str(client.get("/v1/model").status_code)] += 1
        answers["unknown", str(client.get("/Jane-Doe-1950.png").status_code)] += 1
    return answers


def test_the_counts_are_those_of_the_answers(watched: Watched) -> None:
    assert watched.answers == {
        ("/v1/segment", "200"): 3,
        ("/v1/segment", "422"): 1,
        ("/v1/model", "200"): 1,
        ("unknown", "404"): 1,
    }
    assert watched.grown("ray_covseg_requests_total", "route", "status") == watched.answers
    assert watched.grown("ray_covseg_request_seconds_count", "route") == {
        ("/v1/segment",): 4,
        ("/v1/model",): 1,
        ("unknown",): 1,
    }
    assert watched.grown("ray_covseg_rejects_total", "reason") == {("truncated",): 1}
    assert watched.grown("ray_covseg_infection_fraction_count") == {(): 3}
    assert watched.grown("ray_covseg_batch_films_count", "model") == {("default",): 3}


def test_the_counts_are_those_of_the_table(watched: Watched) -> None:
    assert watched.grown("ray_covseg_segment_films_total", "status") == Counter(
        (row["status"],) for row in watched.rows
    )
    reasons = Counter((row["reason"],) for row in watched.rows if row["reason"])
    assert watched.grown("ray_covseg_segment_rejects_total", "reason") == reasons
    assert reasons.total() == 2


def test_the_last_epoch_is_that_of_the_run(watched: Watched) -> None:
    last = watched.epochs[-1]
    exported = watched.seen.gauges("watched")
    ended = exported.pop("ray_covseg_train_epoch_end_timestamp_seconds")
    assert time.time() - 600 < ended < time.time()
    assert exported == {
        "ray_covseg_train_epoch": len(watched.epochs),
        "ray_covseg_train_loss": last["loss"],
        "ray_covseg_train_val_loss": last["val_loss"],
        "ray_covseg_train_score": last["iou_two_class"],
        "ray_covseg_train_images_per_second": last["images_per_second"],
        "ray_covseg_train_epoch_seconds": last["seconds"],
    }
    assert ("watched", "iou_two_class") in watched.seen.sums("ray_covseg_train_score", "run", "metric")


def test_an_epoch_is_told_until_its_worker_ends(watched: Watched) -> None:
    assert watched.last.gauges("lives-on")["ray_covseg_train_epoch"] == 3
    assert watched.last.gauges("lives-on")["ray_covseg_train_score"] == 0.25


def queries() -> Iterator[tuple[str, str, str]]:
    """Each query of the dashboard and of the alerts: whose it is, the query, and the legend made of its labels."""
    for panel in json.loads((SHIPPED / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            query = re.sub(r"\$__\w+", "5m", target["expr"]).replace("$run", ".*")
            yield panel["title"], query, target["legendFormat"]
    for rule in yaml.safe_load((SHIPPED / "rules.yaml").read_text())["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"], ""


def nodes(query: str, kind: type) -> list[Any]:
    found: list[Any] = []
    promql.walk(promql.parse(query), lambda node: found.append(node) if isinstance(node, kind) else None)
    return found


def test_every_query_asks_for_what_is_exported(watched: Watched) -> None:
    exported = watched.seen.labels()
    asked = set()
    for whose, query, legend in queries():
        selectors = nodes(query, promql.VectorSelector)
        assert selectors, whose
        for selector in selectors:
            assert selector.name in exported, (whose, selector.name)
            asked.add(selector.name)
            for matcher in selector.matchers.matchers:
                values = exported[selector.name].get(matcher.name)
                assert values, (whose, selector.name, matcher.name)
                known = matcher.op != promql.MatchOp.Equal or matcher.value in values
                assert known or matcher.name == "status", (whose, matcher.name, matcher.value)
        for aggregate in nodes(query, promql.AggregateExpr):
            inside = nodes(aggregate.expr.prettify(), promql.VectorSelector)
            for label in aggregate.modifier.labels if aggregate.modifier else ():
                assert all(label in exported[selector.name] for selector in inside), (whose, label)
        for label in re.findall(r"{{(\w+)}}", legend):
            assert any(label in aggregate.modifier.labels for aggregate in nodes(query, promql.AggregateExpr)), whose
    unasked = {name for name in exported if not name.endswith(("_created", "_sum", "_count", "_bucket"))} - asked
    assert not unasked, "exported, and neither on the dashboard nor in an alert"


def test_the_list_of_metrics_is_complete(watched: Watched) -> None:
    rows = re.findall(r"^\| `(ray_covseg_\w+)` \| (\w+) \| (.*?) \|", (SHIPPED / "README.md").read_text(), re.MULTILINE)
    listed = {name.removesuffix("_total"): (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    listed["ray_covseg_segment_films"] = ("counter", {"status"})  # its values stand there, too
    labels = watched.seen.labels()
    exported = {}
    for name, kind in watched.seen.types.items():
        sample = {"counter": f"{name}_total", "histogram": f"{name}_count"}.get(kind, name)
        exported[name] = (kind, set(labels[sample]))
    assert exported == listed


def test_no_label_holds_what_was_sent(watched: Watched) -> None:
    values = {value for labels in watched.seen.labels().values() for found in labels.values() for value in found}
    assert not [value for value in values if "Jane" in value or "png" in value or "watched/" in value]


def test_the_dashboard_takes_any_prometheus() -> None:
    text = (SHIPPED / "dashboard.json").read_text()
    board = json.loads(text)
    assert "id" not in board
    assert "uid" not in board
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    squares = [
        (panel["gridPos"]["x"] + across, panel["gridPos"]["y"] + down)
        for panel in board["panels"]
        for across in range(panel["gridPos"]["w"])
        for down in range(panel["gridPos"]["h"])
    ]
    assert len(squares) == len(set(squares)), "two panels lie one over the other"


def test_prometheus_finds_the_nodes_where_ray_lists_them(ray_session: None, tmp_path: Path) -> None:
    (job,) = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text())["scrape_configs"]
    (file,) = job["file_sd_configs"][0]["files"]
    assert file == f"/tmp/ray/{ray_constants.PROMETHEUS_SERVICE_DISCOVERY_FILE}"
    writer = PrometheusServiceDiscoveryWriter(ray.get_runtime_context().gcs_address, str(tmp_path))
    (listed,) = json.loads(writer.get_file_discovery_content())
    assert agent() in listed["targets"]


def test_the_pod_monitor_takes_the_port_that_kuberay_gives() -> None:
    monitor = yaml.safe_load((SHIPPED / "podmonitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"]["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool, of the package prometheus, is not installed")
def test_prometheus_takes_the_files_and_each_alert_wakes_when_it_should() -> None:
    for words in (
        ["check", "config", "--lint-fatal", str(SHIPPED / "prometheus.yaml")],
        ["test", "rules", str(Path(__file__).parent / "alerts.yaml")],
    ):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
