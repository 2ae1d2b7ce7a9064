"""Who reaches whom by cluster/kuberay/networkpolicy.yaml, as Kubernetes defines policies."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
import yaml
from places import ROOT

FOLDER = ROOT / "cluster/kuberay"
POLICIES = list(yaml.safe_load_all((FOLDER / "networkpolicy.yaml").read_text()))
HERE = "research"


@dataclass(frozen=True)
class Pod:
    labels: frozenset[tuple[str, str]]
    namespace: str = HERE


@dataclass(frozen=True)
class Address:
    """Something that is no pod."""

    ip: str


def pod(namespace: str = HERE, **labels: str) -> Pod:
    return Pod(
        frozenset((name.replace("__", "/").replace("_", "-"), value) for name, value in labels.items()), namespace
    )


def from_file(name: str, kind: str, node_type: str | None) -> Pod:
    """A pod of the file, with the labels of its template and, as KubeRay adds it, the type of its node."""
    (document,) = [each for each in yaml.safe_load_all((FOLDER / name).read_text()) if each["kind"] == kind]
    spec = document["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    group = cluster if node_type is None else cluster["headGroupSpec"]
    if node_type == "worker":
        group = cluster["workerGroupSpecs"][0]
    labels = dict(group["template"]["metadata"]["labels"])
    return Pod(frozenset((labels | ({"ray.io/node-type": node_type} if node_type else {})).items()))


HEAD = from_file("raycluster.yaml", "RayCluster", "head")
WORKER = from_file("raycluster.yaml", "RayCluster", "worker")
SERVING = from_file("rayservice.yaml", "RayService", "worker")
JOB_HEAD = from_file("rayjob-train.yaml", "RayJob", "head")
JOB_WORKER = from_file("rayjob-segment.yaml", "RayJob", "worker")
REDIS = from_file("raycluster.yaml", "StatefulSet", None)
CLEANER = Pod(HEAD.labels - {("ray.io/node-type", "head")} | {("ray.io/node-type", "redis-cleanup")})
STRANGER = pod(app="other")
ELSEWHERE = pod("elsewhere", app_kubernetes_io__part_of="x")
POSING = Pod(WORKER.labels, "elsewhere")  # our label, another namespace
INGRESS = pod("ingress-nginx", app="ingress")
OPERATOR = Pod(frozenset({("app.kubernetes.io/name", "kuberay-operator")}), "kuberay-system")
BESIDE_OPERATOR = pod("kuberay-system", app="other")
PROMETHEUS = pod("monitoring", app="prometheus")
NAMES = Pod(frozenset({("k8s-app", "kube-dns")}), "kube-system")
BUCKET = Address("52.216.1.1")
API_SERVER = Address("192.0.2.1")
METADATA = Address("169.254.169.254")
INSIDE = Address("10.1.2.3")

Peer = Pod | Address


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def is_peer(rule: dict[str, Any], peer: Peer) -> bool:
    if "ipBlock" in rule:
        block, ip = rule["ipBlock"], ip_address(peer.ip if isinstance(peer, Address) else "10.9.9.9")
        return ip in ip_network(block["cidr"]) and not any(ip in ip_network(each) for each in block.get("except", []))
    if isinstance(peer, Address):
        return False
    if "namespaceSelector" in rule:
        if not selects(rule["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace}):
            return False
    elif peer.namespace != HERE:
        return False
    return selects(rule.get("podSelector", {}), dict(peer.labels))


def lets(direction: str, ours: Pod, peer: Peer, port: int, protocol: str) -> bool:
    """Whether the policies of one pod let it speak with a peer: none that holds for it lets everything."""
    holding = [
        policy["spec"]
        for policy in POLICIES
        if ours.namespace == HERE
        and selects(policy["spec"]["podSelector"], dict(ours.labels))
        and direction.title() in policy["spec"]["policyTypes"]
    ]
    side = {"ingress": "from", "egress": "to"}[direction]
    return not holding or any(
        any(is_peer(each, peer) for each in rule[side])
        and ("ports" not in rule or {"port": port, "protocol": protocol} in rule["ports"])
        for spec in holding
        for rule in spec.get(direction, [])
    )


def reaches(source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    out = not isinstance(source, Pod) or lets("egress", source, target, port, protocol)
    return out and (not isinstance(target, Pod) or lets("ingress", target, source, port, protocol))


ALLOWED = [
    (WORKER, HEAD, 6379),
    (HEAD, WORKER, 8076),
    (WORKER, WORKER, 40000),
    (JOB_WORKER, JOB_HEAD, 6379),
    (INGRESS, SERVING, 8000),
    (OPERATOR, HEAD, 8265),
    (OPERATOR, JOB_HEAD, 8265),
    (OPERATOR, HEAD, 8000),
    (PROMETHEUS, WORKER, 8080),
    (HEAD, REDIS, 6379),
    (CLEANER, REDIS, 6379),
    (WORKER, BUCKET, 443),
    (HEAD, BUCKET, 443),
    (HEAD, API_SERVER, 6443),
]
REFUSED = [
    *(
        (source, HEAD, port)
        for source in (STRANGER, ELSEWHERE, POSING, INGRESS, INSIDE)
        for port in (6379, 8265, 10001)
    ),
    *((source, SERVING, 8000) for source in (STRANGER, ELSEWHERE, POSING, INSIDE)),
    (INGRESS, HEAD, 8265),
    (INGRESS, HEAD, 8080),
    *((PROMETHEUS, HEAD, port) for port in (6379, 8000, 8265, 10001)),
    (OPERATOR, HEAD, 6379),
    (OPERATOR, HEAD, 10001),
    (OPERATOR, WORKER, 8265),
    (BESIDE_OPERATOR, HEAD, 8265),
    *((source, REDIS, 6379) for source in (WORKER, STRANGER, POSING, OPERATOR)),
    (REDIS, BUCKET, 443),
    (REDIS, HEAD, 6379),
    (WORKER, BUCKET, 80),
    (WORKER, API_SERVER, 6443),
    (WORKER, METADATA, 80),
    (WORKER, METADATA, 443),
    (WORKER, INSIDE, 443),
    (HEAD, STRANGER, 8080),
]


@pytest.mark.parametrize(("source", "target", "port"), ALLOWED)
def test_what_is_needed_is_let_through(source: Peer, target: Peer, port: int) -> None:
    assert reaches(source, target, port)


@pytest.mark.parametrize(("source", "target", "port"), REFUSED)
def test_nothing_else_is(source: Peer, target: Peer, port: int) -> None:
    assert not reaches(source, target, port)


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_names_can_be_asked_for(protocol: str) -> None:
    assert reaches(WORKER, NAMES, 53, protocol)
    assert not reaches(WORKER, NAMES, 9153, protocol)
