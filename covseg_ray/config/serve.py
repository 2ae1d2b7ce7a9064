"""The configuration of an endpoint: the ``args`` of the application in a Ray Serve file, and its address."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from covseg_ray.config import DEFAULT_MODEL
from covseg_ray.errors import ConfigError

APPLICATION = "covseg-ray"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEYS_ENVIRONMENT = "COVSEG_API_KEYS"

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
M = TypeVar("M", bound=BaseModel)


class ServeConfig(BaseModel, frozen=True, extra="forbid"):
    """``models``: bundles by name, the first is the default. ``replicas``: the fewest and the most of each model, each
    with so many ``cores`` if there is no GPU; see `sized_for` for the default.

    At most ``waiting`` requests are queued at one ingress beside those in flight; more are refused with 503.
    """

    models: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")], str] = Field(min_length=1)
    engine: Literal["auto", "torch", "openvino", "onnx"] = "auto"
    replicas: tuple[Positive, Positive] = (1, 2)
    cores: Positive = 1
    ingresses: Positive = 1
    waiting: Positive = 16
    upscale_seconds: Seconds = 2.0
    downscale_seconds: Seconds = 60.0
    keys_file: str | None = None
    max_body_mib: Positive = 256
    body_seconds: Seconds = 30.0
    decoders: Positive = 2

    @property
    def has_keys(self) -> bool:
        """Whether API keys are set, here or in the environment."""
        return bool(self.keys_file or os.environ.get(KEYS_ENVIRONMENT))

    def sized_for(self, cores: int, gpus: int) -> ServeConfig:
        """The same configuration for one machine: if ``replicas`` are not set, as many of each model as fit on a GPU or
        on ``self.cores`` each. Engines other than torch compute on cores only."""
        if "replicas" in self.model_fields_set:
            return self
        on_gpus = gpus > 0 and self.engine in ("auto", "torch")
        room, least = (gpus, 1) if on_gpus else (cores // self.cores, self.replicas[1])
        return self.model_copy(update={"replicas": (1, max(least, room // len(self.models)))})

    @field_validator("replicas")
    @classmethod
    def _ordered(cls, replicas: tuple[int, int]) -> tuple[int, int]:
        if replicas[0] > replicas[1]:
            raise ValueError("give the fewest replicas first, then the most")
        return replicas


class Endpoint(BaseModel, frozen=True):
    """Where an endpoint listens, and what it serves. Raises ConfigError for a host beyond loopback without API keys."""

    host: str = LOOPBACK[0]
    port: int = Field(default=8000, ge=1, le=65535)
    config: ServeConfig

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def __str__(self) -> str:
        return ", ".join(f"{name} ({uri})" for name, uri in self.config.models.items())

    def to_yaml(self) -> str:
        """A Ray Serve file that `read_endpoint` reads to an equal endpoint."""
        application = {"name": APPLICATION, "args": self.config.model_dump(mode="json")}
        options = {"host": self.host, "port": self.port}
        return str(yaml.safe_dump({"http_options": options, "applications": [application]}, sort_keys=False))

    @model_validator(mode="after")
    def _guarded(self) -> Endpoint:
        if self.host not in LOOPBACK and not self.config.has_keys:
            raise ConfigError(f"--host {self.host}: beyond loopback the endpoint needs API keys; give --keys-file FILE")
        return self


def read_endpoint(
    path: str | None, models: list[str], host: str | None, port: int | None, keys_file: str | None
) -> Endpoint:
    """The endpoint of a Ray Serve file and of the command's options, which override the file. Raises ConfigError."""
    options, args = _read_file(path) if path else ({}, {})
    if models or not path:
        args = {**args, "models": bundles_by_name(models or [DEFAULT_MODEL])}
    if keys_file:
        args = {**args, "keys_file": keys_file}
    if not args.get("models"):
        raise ConfigError(f"{path}: no model to serve; name one under models (see jobs/serve.yaml), or give --model")
    address = {"host": host or options.get("host"), "port": port or options.get("port")}
    given = {name: value for name, value in address.items() if value is not None}
    return _validated(Endpoint, {**given, "config": parse(args)})


def _read_file(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The HTTP options, and the arguments of the application named covseg-ray."""
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        args = next(each["args"] for each in document["applications"] if each["name"] == APPLICATION)
        return dict(document.get("http_options", {})), dict(args)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); start from jobs/serve.yaml") from None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, StopIteration):
        raise ConfigError(
            f"{path}: not a Ray Serve file with an application named {APPLICATION} and its args; see jobs/serve.yaml"
        ) from None


def parse(args: dict[str, Any]) -> ServeConfig:
    """Raises ConfigError for an unknown key or an invalid value."""
    return _validated(ServeConfig, args)


def _validated(model: type[M], values: dict[str, Any]) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key, problem = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"key {key}: {problem}" if key else problem) from None


def bundles_by_name(models: list[str]) -> dict[str, str]:
    """The values of ``--model``: ``NAME=BUNDLE``, or one ``BUNDLE`` under the name ``default``."""
    bundles: dict[str, str] = {}
    for text in models:
        name, equals, uri = text.partition("=")
        name, uri = (name, uri) if equals and "/" not in name else ("default", text)
        if name in bundles:
            raise ConfigError(f"--model {text}: {name} is given twice; write NAME=BUNDLE, each name once")
        bundles[name] = uri
    return bundles
