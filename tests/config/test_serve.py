"""What a Ray Serve file may hold, how many replicas fit a machine, and the share of a GPU that each has."""

from __future__ import annotations

from pathlib import Path

import pytest

from covseg_ray.config.serve import Endpoint, ServeConfig, read_endpoint
from covseg_ray.engine.serving.app import gpu_share
from covseg_ray.errors import ConfigError


def served(models: int) -> ServeConfig:
    return ServeConfig(models={f"model{index}": "runs/paper/bundle" for index in range(models)})


@pytest.mark.parametrize(
    ("models", "cores", "gpus", "most"),
    [
        (1, 1, 0, 2),  # never fewer than the default's
        (1, 2, 0, 2),
        (1, 16, 0, 16),
        (2, 16, 0, 8),
        (3, 64, 0, 21),
        (1, 64, 1, 1),
        (1, 64, 8, 8),
        (2, 64, 8, 4),
        (3, 64, 2, 1),
    ],
)
def test_replicas_fit_the_machine(models: int, cores: int, gpus: int, most: int) -> None:
    found = served(models).sized_for(cores, gpus)
    assert (found.replicas, found.cores) == ((1, most), 1)


def test_what_was_given_stands() -> None:
    given = ServeConfig(models={"default": "runs/paper/bundle"}, replicas=(1, 2))
    assert given.sized_for(64, 0) is given
    wide = ServeConfig(models={"default": "runs/paper/bundle"}, cores=4).sized_for(64, 0)
    assert (wide.replicas, wide.cores) == ((1, 16), 4)


def test_an_engine_of_cpus_has_no_use_for_gpus() -> None:
    for_cpus = ServeConfig(models={"default": "runs/paper/bundle"}, engine="openvino")
    assert for_cpus.sized_for(64, 8).replicas == (1, 64)


@pytest.mark.parametrize(("models", "gpus"), [(1, 1), (1, 8), (2, 1), (3, 2), (5, 2), (8, 8)])
def test_every_model_has_a_replica_on_the_gpus_there_are(models: int, gpus: int) -> None:
    share = gpu_share(models, gpus)
    assert share <= 1
    assert gpus * int(1 / share + 1e-9) >= models
    assert share == 1 or gpus < models


@pytest.mark.parametrize(
    ("options", "args", "text"),
    [
        (
            "{}",
            "{models: {a: b}, engine: tensorflow}",
            "key engine: Input should be 'auto', 'torch', 'openvino' or 'onnx'",
        ),
        ("{}", "{models: {a: b}, cores: 0}", "key cores: Input should be greater than or equal to 1"),
        ("{}", "{models: {a: b}, copies: 2}", "key copies: "),
        ("{port: 70000}", "{models: {a: b}}", "key port: Input should be less than or equal to 65535"),
        ("{port: many}", "{models: {a: b}}", "key port: Input should be a valid integer"),
        ("{host: 0.0.0.0}", "{models: {a: b}}", "--host 0.0.0.0: beyond loopback the endpoint needs API keys"),
    ],
)
def test_an_invalid_file_is_one_line_of_error(
    options: str, args: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVSEG_API_KEYS", raising=False)
    file = tmp_path / "serve.yaml"
    file.write_text(f"http_options: {options}\napplications: [{{name: covseg-ray, args: {args}}}]")
    with pytest.raises(ConfigError) as caught:
        read_endpoint(str(file), [], None, None, None)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_an_endpoint_in_code_has_the_same_checks_and_a_file_holds_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVSEG_API_KEYS", raising=False)
    with pytest.raises(ConfigError, match="beyond loopback"):
        Endpoint(host="0.0.0.0", config=served(1))
    endpoint = Endpoint(host="0.0.0.0", port=8001, config=ServeConfig(models={"a": "b"}, keys_file="keys", cores=3))
    (tmp_path / "serve.yaml").write_text(endpoint.to_yaml())
    assert read_endpoint(str(tmp_path / "serve.yaml"), [], None, None, None) == endpoint
