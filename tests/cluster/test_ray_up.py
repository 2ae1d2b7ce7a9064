"""The files of `ray up`: Ray takes them, nothing is open to the world, and what is installed is what is tested."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from jsonschema import ValidationError
from moto import mock_aws
from moto.backends import get_backend
from packaging.requirements import Requirement
from places import ROOT
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.util import prepare_config, validate_config
from shellcheck import complaints

FOLDER = ROOT / "cluster/ray-up"
CLOUDS = ("aws", "gcp")
each_cloud = pytest.mark.parametrize("cloud", CLOUDS)


def read(cloud: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / f"{cloud}.yaml").read_text()))


def with_defaults(document: dict[str, Any]) -> dict[str, Any]:
    """As ``ray up`` reads it: filled up with Ray's defaults and checked, without asking a cloud."""
    prepared = prepare_config(copy.deepcopy(document))
    validate_config(prepared)
    return prepared


def commands(document: dict[str, Any]) -> list[str]:
    return [line for key, lines in document.items() if key.endswith("_commands") for line in lines]


def workers(document: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in document["available_node_types"].items() if name != document["head_node_type"]}


@each_cloud
def test_ray_takes_the_file_and_adds_no_command_of_its_own(cloud: str) -> None:
    document = read(cloud)
    prepared = with_defaults(document)
    common = document["setup_commands"]
    assert prepared["head_setup_commands"] == common + document["head_setup_commands"]
    assert prepared["worker_setup_commands"] == common + document["worker_setup_commands"]
    for key in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert prepared[key] == document[key]
    assert prepared["docker"] == {}


@each_cloud
def test_an_unknown_key_is_refused(cloud: str) -> None:
    with pytest.raises(ValidationError, match="max_wrkers"):
        with_defaults(read(cloud) | {"max_wrkers": 3})


@each_cloud
def test_the_head_is_kept_and_the_workers_come_and_go(cloud: str) -> None:
    prepared = with_defaults(read(cloud))
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert (head["min_workers"], head["max_workers"]) == (0, 0)
    assert head["resources"] == {"CPU": 0}
    assert not {"InstanceMarketOptions", "scheduling"} & head["node_config"].keys()
    assert 0 < prepared["idle_timeout_minutes"] <= 15
    kinds = workers(prepared)
    assert {"CPU", "GPU"} == {name for kind in kinds.values() for name in kind["resources"]}
    for kind in kinds.values():
        assert kind["min_workers"] == 0 < kind["max_workers"] <= prepared["max_workers"]
        node = kind["node_config"]
        spot = (
            node["InstanceMarketOptions"]["MarketType"] if cloud == "aws" else node["scheduling"]["provisioningModel"]
        )
        assert spot.lower() == "spot"


@contextmanager
def empty_account() -> Iterator[None]:
    """An account of moto's without machines. Its own reset would take away the buckets of other tests, too: they lie in
    the same process."""
    for service in ("ec2", "iam"):
        for regions in get_backend(service).values():
            for backend in regions.values():
                backend.reset()
    mock = mock_aws()
    mock.start(reset=False)
    try:
        yield
    finally:
        mock.stop(remove_data=False)


@pytest.fixture
def ec2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An account with a default network; ``ray up`` writes its key below another home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with empty_account():
        yield boto3.client("ec2", "us-east-1")


def test_the_resources_are_those_of_the_instance_types(ec2: Any) -> None:
    """By EC2's own table of instance types, which moto carries."""
    for kind in workers(read("aws")).values():
        found = ec2.describe_instance_types(InstanceTypes=[kind["node_config"]["InstanceType"]])
        (answer,) = found["InstanceTypes"]
        gpus = sum(gpu["Count"] for gpu in answer.get("GpuInfo", {}).get("Gpus", []))
        expected = {"CPU": answer["VCpuInfo"]["DefaultVCpus"]} | ({"GPU": gpus} if gpus else {})
        assert kind["resources"] == expected
        assert answer["ProcessorInfo"]["SupportedArchitectures"] == ["x86_64"]


def test_the_resources_are_those_of_the_machine_types() -> None:
    """Google's names end with the CPUs; every g2-standard-4 has one L4."""
    for kind in workers(read("gcp")).values():
        machine = kind["node_config"]["machineType"]
        assert kind["resources"]["CPU"] == int(machine.rsplit("-", 1)[1])
        assert kind["resources"].get("GPU", 0) == (1 if machine == "g2-standard-4" else 0)


def groups_of(config: dict[str, Any]) -> set[str]:
    return {
        group for kind in config["available_node_types"].values() for group in kind["node_config"]["SecurityGroupIds"]
    }


def test_on_ec2_the_world_reaches_ssh_alone(ec2: Any) -> None:
    (group,) = groups_of(bootstrap_aws(with_defaults(read("aws"))))
    (answer,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    world = [rule for rule in answer["IpPermissions"] if rule["IpRanges"] or rule.get("Ipv6Ranges")]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in world] == [("tcp", 22, 22)]
    within = [rule for rule in answer["IpPermissions"] if rule not in world]
    assert [pair["GroupId"] for rule in within for pair in rule["UserIdGroupPairs"]] == [group]


def test_on_ec2_a_group_that_exists_keeps_its_rules(ec2: Any) -> None:
    """As README says: who makes the group first decides from where SSH may come."""
    (network,) = ec2.describe_vpcs()["Vpcs"]
    made = ec2.create_security_group(GroupName="covseg-ray", Description="mine", VpcId=network["VpcId"])["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "198.51.100.7/32"}]}
    ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=[rule])
    assert groups_of(bootstrap_aws(with_defaults(read("aws")))) == {made}
    (answer,) = ec2.describe_security_groups(GroupIds=[made])["SecurityGroups"]
    assert [each["IpRanges"] for each in answer["IpPermissions"]] == [[{"CidrIp": "198.51.100.7/32"}]]


def test_on_ec2_storage_is_reached_by_role(ec2: Any) -> None:
    """And no role is made: Ray's own would have all of EC2 and S3."""
    kinds = bootstrap_aws(with_defaults(read("aws")))["available_node_types"]
    profiles = {name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in kinds.items()}
    assert profiles == {"head": "covseg-ray-head", "cpu": "covseg-ray-worker", "gpu": "covseg-ray-worker"}
    assert all(kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"} for kind in kinds.values())
    assert boto3.client("iam").list_roles()["Roles"] == []


def test_on_google_storage_is_reached_by_role() -> None:
    project = read("gcp")["provider"]["project_id"]
    for kind in workers(read("gcp")).values():
        (account,) = kind["node_config"]["serviceAccounts"]
        assert account["email"] == f"covseg-ray-worker@{project}.iam.gserviceaccount.com"
        assert account["scopes"] == ["https://www.googleapis.com/auth/devstorage.read_write"]


@each_cloud
def test_the_dashboard_is_on_loopback_and_every_shell_has_the_token(cloud: str) -> None:
    document = read(cloud)
    (start,) = [line for line in document["head_start_ray_commands"] if "ray start" in line]
    assert re.findall(r"--dashboard-host[= ](\S+)", start) == ["127.0.0.1"]
    assert "0.0.0.0" not in (FOLDER / f"{cloud}.yaml").read_text()
    assert document["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token" in document["setup_commands"]
    (exported,) = [line for line in document["setup_commands"] if ">> ~/.bashrc" in line]
    assert "export RAY_AUTH_MODE=token " in exported
    assert not any("RAY_AUTH_MODE" in line for line in commands(document) if line != exported)


@each_cloud
def test_workers_start_ray_by_the_wrapper_that_hears_the_cloud(cloud: str) -> None:
    document = read(cloud)
    (start,) = [line for line in document["worker_start_ray_commands"] if line != "ray stop"]
    assert f'spot-worker.sh {cloud} --address="$RAY_HEAD_IP:6379"' in start
    assert document["file_mounts"]["~/covseg-ray/spot-worker.sh"] == "cluster/ray-up/spot-worker.sh"
    notice, look = {"aws": 120, "gcp": 30}[cloud], 5 + 2
    (drain,) = re.findall(r"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=(\d+)", start)
    assert 0 < int(drain) < notice - look


@each_cloud
def test_what_is_copied_is_there_and_is_what_pip_needs(cloud: str) -> None:
    mounts = read(cloud)["file_mounts"]
    local = {remote: path for remote, path in mounts.items() if not path.startswith("~")}
    assert [path for path in local.values() if not (ROOT / path).exists()] == []
    needed = {"constraints.txt", "pyproject.toml", "README.md", "LICENSE", "covseg_ray"}
    assert needed <= {path for remote, path in local.items() if remote == f"~/covseg-ray/{path}"}


@each_cloud
def test_every_version_is_pinned_and_ray_is_the_tested_one(cloud: str) -> None:
    installs = [line for line in commands(read(cloud)) if "pip install" in line]
    assert len(installs) == 2
    pinned = {
        Requirement(line).name: line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"
    }
    assert pinned["ray"] == f"ray=={version('ray')}"
    for line in installs:
        words = re.sub(r"#.*", "", line.split("pip install", 1)[1]).replace("'", "").split()
        assert words[words.index("-c") + 1].endswith("constraints.txt")
        wanted = [word for word in words if not word.startswith(("-", ".")) and not word.endswith("constraints.txt")]
        for requirement in map(Requirement, wanted):
            assert requirement.name in pinned or [each.operator for each in requirement.specifier] == ["=="], line


@each_cloud
def test_shellcheck_finds_nothing_in_the_commands(cloud: str) -> None:
    for line in commands(read(cloud)):
        assert complaints(f"{line}\n") == ""


def test_shellcheck_finds_nothing_in_the_wrapper() -> None:
    assert complaints((FOLDER / "spot-worker.sh").read_text()) == ""


@each_cloud
def test_no_secret_is_in_the_file(cloud: str) -> None:
    text = (FOLDER / f"{cloud}.yaml").read_text()
    assert not re.search(r"AKIA|BEGIN [A-Z ]*PRIVATE KEY|gcp_credentials|aws_credentials|ssh_private_key", text)
    assert not re.search(r"\b[0-9a-fA-F]{32,}\b|(?i:secret|password|token)\s*[:=]\s*['\"]?[\w+/]{12,}", text)
