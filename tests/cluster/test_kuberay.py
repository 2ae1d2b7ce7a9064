"""The files for KubeRay: its schemas know every key, their commands are real, and no pod may do more than it needs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from places import ROOT
from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
from shellcheck import complaints

from covseg_ray.cli.cluster.submit import parsed
from covseg_ray.cli.segment import segment
from covseg_ray.cli.training.train import train
from covseg_ray.config import train as config
from covseg_ray.config.serve import parse

FOLDER = ROOT / "cluster/kuberay"
SCHEMAS = ROOT.parent / "shared/kuberay-crds"
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
FILES = ("raycluster", "rayjob-train", "rayjob-segment", "rayservice")
each_file = pytest.mark.parametrize("name", FILES)
with_schemas = pytest.mark.skipif(not SCHEMAS.exists(), reason="KubeRay's schemas are not on this machine")
OURS = {"app.kubernetes.io/part-of": "covseg-ray"}


def strict(schema: Any) -> Any:
    """The schema as ``kubectl --validate=strict`` reads it: a key that it does not list is an error."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    read = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        read["additionalProperties"] = False
    return read


def schema(kind: str) -> Any:
    return strict(json.loads((SCHEMAS / f"{KINDS[kind]}.schema.json").read_text()))


def errors(of: Any, document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(of).iter_errors(document)]


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def resource(name: str) -> Any:
    """The one of KubeRay's own in the file."""
    (found,) = [each for each in documents(name) if each["kind"] in KINDS]
    return found


def cluster_of(document: Any) -> Any:
    spec = document["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def groups(name: str) -> dict[str, Any]:
    """The head's group and the workers', by name."""
    cluster = cluster_of(resource(name))
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def ray_container(group: Any) -> Any:
    (container,) = group["template"]["spec"]["containers"]
    return container


def size(text: str) -> float:
    """A quantity of Kubernetes, in CPUs or bytes."""
    number, unit = re.fullmatch(r"([\d.]+)(m|Mi|Gi)?", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * {None: 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def cpus(group: Any) -> float:
    return size(ray_container(group)["resources"]["requests"]["cpu"])


@with_schemas
@each_file
def test_kuberay_knows_every_key(name: str) -> None:
    document = resource(name)
    assert errors(schema(document["kind"]), document) == []
    cluster_of(document)["headGroupSpec"]["template"]["spec"]["contianers"] = []
    assert [error.split(":")[0].rsplit(".", 1)[-1] for error in errors(schema(document["kind"]), document)] == ["spec"]


@with_schemas
def test_kubernetes_knows_every_key_of_redis_and_of_the_policies() -> None:
    """By the parts of KubeRay's schemas that are Kubernetes' own."""
    fields = schema("RayCluster")["properties"]["spec"]["properties"]
    pod, rules = fields["headGroupSpec"]["properties"]["template"], fields["networkPolicy"]["properties"]["head"]
    (redis,) = [each for each in documents("raycluster") if each["kind"] == "StatefulSet"]
    assert errors(pod, redis["spec"]["template"]) == []
    volume = pod["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]["ephemeral"]
    for claim in redis["spec"]["volumeClaimTemplates"]:
        assert errors(volume["properties"]["volumeClaimTemplate"]["properties"]["spec"], claim["spec"]) == []
    for policy in documents("networkpolicy"):
        assert policy["spec"].keys() <= {"podSelector", "policyTypes", "ingress", "egress"}
        for direction in ("ingress", "egress"):
            assert errors(rules["properties"][f"{direction}Rules"], policy["spec"].get(direction, [])) == []


def test_the_rayservice_serves_what_the_shipped_file_does() -> None:
    """But for where it listens, which bundle it has and the keys that it must have there."""
    here = yaml.safe_load((ROOT / "jobs/serve.yaml").read_text())
    there = yaml.safe_load(resource("rayservice")["spec"]["serveConfigV2"])
    assert parse(there["applications"][0]["args"]).has_keys
    for document in (here, there):
        del document["http_options"]["host"]
        args = document["applications"][0]["args"]
        args.pop("models")
        args.pop("keys_file", None)
    assert there == here


def test_the_endpoints_keys_are_where_it_looks_for_them() -> None:
    args = yaml.safe_load(resource("rayservice")["spec"]["serveConfigV2"])["applications"][0]["args"]
    for group in groups("rayservice").values():
        mounts = {mount["mountPath"]: mount["name"] for mount in ray_container(group)["volumeMounts"]}
        volume = mounts[str(Path(args["keys_file"]).parent)]
        volumes = {each["name"]: each for each in group["template"]["spec"]["volumes"]}
        assert volumes[volume]["secret"]["secretName"] == "covseg-ray-keys"


def words_of(name: str) -> list[str]:
    """covseg-ray's words in the entrypoint, up to what the shell does with its exit code."""
    words = shlex.split(resource(name)["spec"]["entrypoint"])
    assert words[0] == "covseg-ray"
    return words[1 : words.index("||")] if "||" in words else words[1:]


def test_the_training_is_a_command_and_a_job_that_are_valid(tmp_path: Path) -> None:
    command, *words = words_of("rayjob-train")
    assert command == "train"
    given = parsed(train, words)
    assert given["address"] == "auto"
    mounts = {
        mount["mountPath"]: mount["name"] for mount in ray_container(groups("rayjob-train")["head"])["volumeMounts"]
    }
    volumes = {each["name"]: each for each in groups("rayjob-train")["head"]["template"]["spec"]["volumes"]}
    file = Path(given["job_file"])
    (held,) = [each for each in documents("rayjob-train") if each["kind"] == "ConfigMap"]
    assert volumes[mounts[str(file.parent)]]["configMap"]["name"] == held["metadata"]["name"]
    copy = tmp_path / file.name
    copy.write_text(held["data"][file.name])
    job = config.load(str(copy), [])
    assert job.out.startswith("s3://")
    assert job.data.dataset.startswith("s3://")
    trainers = groups("rayjob-train")["trainers"]
    assert trainers["minReplicas"] == trainers["replicas"] == trainers["maxReplicas"] == job.workers
    assert cpus(trainers) - job.resources.cpus_per_worker >= 1  # what reads films needs one


def test_the_archive_is_a_command_that_is_valid() -> None:
    command, *words = words_of("rayjob-segment")
    assert command == "segment"
    given = parsed(segment, words)
    assert given["address"] == "auto"
    assert all(given[key].startswith("s3://") for key in ("source", "out", "model"))
    films = groups("rayjob-segment")["films"]
    assert films["minReplicas"] >= 1  # how many models there may be is asked of the cluster when the run begins
    assert given["actors"] == films["maxReplicas"] * cpus(films)


def test_wrong_words_would_not_parse() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(segment, [*words_of("rayjob-segment")[1:], "--no-such-option"])


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (3, 0), (1, 1), (2, 1), (75, 1), (143, 1)])
def test_rejected_films_are_no_failure_of_the_archive(code: int, seen: int, tmp_path: Path) -> None:
    command = tmp_path / "covseg-ray"
    command.write_text(f"#!/bin/sh\nexit {code}\n")
    command.chmod(0o755)
    entrypoint = resource("rayjob-segment")["spec"]["entrypoint"]
    done = subprocess.run(entrypoint, shell=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode == seen


@pytest.mark.parametrize("name", ["rayjob-train", "rayjob-segment"])
def test_a_job_ends_with_its_cluster(name: str) -> None:
    spec = resource(name)["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
    assert 1 <= spec["backoffLimit"] <= 5
    assert spec["submissionMode"] == "HTTPMode"  # others put the entrypoint through a second shell


@each_file
def test_versions_are_those_of_the_package_and_of_ray(name: str) -> None:
    assert cluster_of(resource(name))["rayVersion"] == version("ray")
    for group in groups(name).values():
        tag = ray_container(group)["image"].rpartition(":")[2]
        gpu = "nvidia.com/gpu" in ray_container(group)["resources"]["limits"]
        assert tag == version("covseg-ray") + ("-cuda" if gpu else "")


@each_file
def test_the_cluster_wants_a_token(name: str) -> None:
    assert cluster_of(resource(name))["authOptions"] == {"mode": "token"}


def pods(name: str) -> Iterator[Any]:
    for group in groups(name).values():
        yield group["template"]["spec"]
    for document in documents(name):
        if document["kind"] == "StatefulSet":
            yield document["spec"]["template"]["spec"]


@each_file
def test_pods_keep_to_what_kubernetes_calls_restricted(name: str) -> None:
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    cluster = cluster_of(resource(name))
    if cluster.get("enableInTreeAutoscaling"):
        confined = ray_container(cluster["headGroupSpec"])["securityContext"]
        assert cluster["autoscalerOptions"]["securityContext"] == confined


@each_file
def test_only_the_autoscaler_may_ask_the_api_server(name: str) -> None:
    asks = {"head"} if cluster_of(resource(name)).get("enableInTreeAutoscaling") else set()
    found = {
        group
        for group, each in groups(name).items()
        if each["template"]["spec"].get("automountServiceAccountToken", True)
    }
    assert found == asks


@each_file
def test_storage_is_reached_by_account_or_secret(name: str) -> None:
    for group in groups(name).values():
        assert group["template"]["spec"]["serviceAccountName"] == "covseg-ray"
        container = ray_container(group)
        assert container["envFrom"] == [{"secretRef": {"name": "covseg-ray-storage", "optional": True}}]
        assert "env" not in container


@each_file
def test_memory_and_processors_are_asked_for_and_the_object_store_fits(name: str) -> None:
    for group in groups(name).values():
        container = ray_container(group)
        wanted = container["resources"]
        assert size(wanted["requests"]["memory"]) == size(wanted["limits"]["memory"])
        assert cpus(group) >= 1
        (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == "/dev/shm"]
        (volume,) = [each for each in group["template"]["spec"]["volumes"] if each["name"] == mount["name"]]
        assert volume["emptyDir"]["medium"] == "Memory"
        shared = size(volume["emptyDir"]["sizeLimit"])
        store = int(group["rayStartParams"]["object-store-memory"])
        assert store < shared <= size(wanted["limits"]["memory"]) / 2


@each_file
def test_the_head_computes_nothing_and_workers_have_time_to_drain(name: str) -> None:
    for group, each in groups(name).items():
        if group == "head":
            assert each["rayStartParams"]["num-cpus"] == "0"
        else:
            assert each["template"]["spec"]["terminationGracePeriodSeconds"] > RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
            assert "num-cpus" not in each["rayStartParams"]


def test_the_cluster_grows_from_nothing_and_survives_its_head() -> None:
    cluster = resource("raycluster")["spec"]
    assert cluster["enableInTreeAutoscaling"] is True
    for group in cluster["workerGroupSpecs"]:
        assert (group["minReplicas"], group["replicas"]) == (0, 0)
        assert group["maxReplicas"] > 0
    (service,) = [each for each in documents("raycluster") if each["kind"] == "Service"]
    (redis,) = [each for each in documents("raycluster") if each["kind"] == "StatefulSet"]
    (port,) = service["spec"]["ports"]
    tolerance = cluster["gcsFaultToleranceOptions"]
    assert tolerance["redisAddress"] == f"{service['metadata']['name']}:{port['port']}"
    labels = redis["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == redis["spec"]["selector"]["matchLabels"] == labels
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    (password,) = container["env"]
    assert tolerance["redisPassword"]["valueFrom"] == password["valueFrom"]
    assert password["valueFrom"]["secretKeyRef"] == {"name": "covseg-ray-redis", "key": "password"}
    *_, script = container["command"]
    assert f"requirepass ${password['name']}\n" in script
    (claim,) = redis["spec"]["volumeClaimTemplates"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container["volumeMounts"]
    assert "--dir /data" in script


def test_shellcheck_finds_nothing() -> None:
    (redis,) = [each for each in documents("raycluster") if each["kind"] == "StatefulSet"]
    scripts = [container["command"][-1] for container in redis["spec"]["template"]["spec"]["containers"]]
    scripts += [resource(name)["spec"]["entrypoint"] for name in ("rayjob-train", "rayjob-segment")]
    for script in scripts:
        assert complaints(f"{script}\n") == ""


def values(document: Any) -> Iterator[tuple[str, str]]:
    """Every text in a document, with the key that it stands under."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from ((key, value),) if isinstance(value, str) else values(value)
    elif isinstance(document, list):
        for each in document:
            yield from values(each)


@pytest.mark.parametrize("name", [*FILES, "networkpolicy"])
def test_no_secret_is_in_the_file(name: str) -> None:
    for document in documents(name):
        assert document["kind"] != "Secret"
        for key, value in values(document):
            assert not re.search(r"AKIA|PRIVATE KEY|\b[0-9a-fA-F]{32,}\b", value)
            assert not re.search(r"AWS_|RAY_AUTH_TOKEN|(?i:--(token|password|key)\b)", value), key
            assert key not in ("password", "token", "auth_token") or not value
