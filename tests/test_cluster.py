"""The files in cluster/: they say what jobs/ says, and KubeRay's schemas know every key in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from covseg_ray.serving import parse

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT.parent / "shared/kuberay-crds"


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


def rayservice() -> Any:
    return yaml.safe_load((ROOT / "cluster/rayservice.yaml").read_text())


@pytest.mark.skipif(not SCHEMAS.exists(), reason="KubeRay's schemas are not on this machine")
def test_kuberay_knows_every_key_of_the_rayservice() -> None:
    validator = Draft202012Validator(strict(json.loads((SCHEMAS / "rayservices.schema.json").read_text())))
    document = rayservice()
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)] == []
    document["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["contianers"] = []
    assert [error.json_path.rsplit(".", 1)[-1] for error in validator.iter_errors(document)] == ["spec"]


def test_the_rayservice_serves_what_the_shipped_file_does() -> None:
    """But for where it listens, which bundle it has and the keys that it must have there."""
    here = yaml.safe_load((ROOT / "jobs/serve.yaml").read_text())
    there = yaml.safe_load(rayservice()["spec"]["serveConfigV2"])
    assert parse(there["applications"][0]["args"]).has_keys
    for document in (here, there):
        del document["http_options"]["host"]
        args = document["applications"][0]["args"]
        args.pop("models")
        args.pop("keys_file", None)
    assert there == here
