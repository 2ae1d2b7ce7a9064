"""What an endpoint serves and how it grows: the ``args`` of the application in a Ray Serve file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from covseg_ray.errors import ConfigError

APPLICATION = "covseg-ray"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEYS_ENVIRONMENT = "COVSEG_API_KEYS"

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Serving(BaseModel):
    """``models``: bundles by name, the first is the default. ``replicas``: the fewest and the most of each model, each
    with so many ``cores`` where there is no GPU; see `fitted` for where no replicas are given.

    ``waiting`` requests at most wait at one ingress beside those under way; more are refused with 503. Times are in
    seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")], str] = Field(min_length=1)
    engine: str = "auto"
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

    def fitted(self, cores: int, gpus: int) -> Serving:
        """The same for a machine of its own: where ``replicas`` were not given, up to as many of each model as have
        room, a GPU or ``self.cores`` each; engines but torch compute on cores whatever GPUs there are."""
        if "replicas" in self.model_fields_set:
            return self
        on_gpus = gpus > 0 and self.engine in ("auto", "torch")
        room, least = (gpus, 1) if on_gpus else (cores // self.cores, self.replicas[1])
        return self.model_copy(update={"replicas": (1, max(least, room // len(self.models)))})

    @field_validator("replicas")
    @classmethod
    def _grow(cls, replicas: tuple[int, int]) -> tuple[int, int]:
        if replicas[0] > replicas[1]:
            raise ValueError("replicas are the fewest and the most, in this order")
        return replicas


@dataclass(frozen=True)
class Endpoint:
    """Where an endpoint listens, and what it serves."""

    host: str
    port: int
    serving: Serving

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def __str__(self) -> str:
        return ", ".join(f"{name} ({uri})" for name, uri in self.serving.models.items())


def endpoint(
    path: str | None, models: list[str], host: str | None, port: int | None, keys_file: str | None
) -> Endpoint:
    """What a Ray Serve file and the command's own words, which go before it, give together.

    Raises ConfigError for what cannot be used: beyond loopback API keys are a must.
    """
    options, args = _read_file(path) if path else ({}, {})
    if models:
        args = {**args, "models": named(models)}
    if keys_file:
        args = {**args, "keys_file": keys_file}
    if not args.get("models"):
        raise ConfigError("no model to serve: give --model BUNDLE, or a file with -c SERVE.yaml (see jobs/serve.yaml)")
    found = Endpoint(host or options.get("host", LOOPBACK[0]), port or options.get("port", 8000), parse(args))
    if found.host not in LOOPBACK and not found.serving.has_keys:
        raise ConfigError(
            f"--host {found.host}: beyond loopback the endpoint needs API keys; give --keys-file FILE, one key a line"
        )
    return found


def written(found: Endpoint) -> str:
    """The endpoint as a Ray Serve file that `endpoint` reads to the same one."""
    application = {"name": APPLICATION, "args": found.serving.model_dump(mode="json")}
    options = {"host": found.host, "port": found.port}
    return str(yaml.safe_dump({"http_options": options, "applications": [application]}, sort_keys=False))


def _read_file(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The HTTP options, and the arguments of the application named covseg-ray."""
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        args = next(each["args"] for each in document["applications"] if each["name"] == APPLICATION)
        return dict(document.get("http_options", {})), dict(args)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); jobs/serve.yaml is one to begin with") from None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, StopIteration):
        raise ConfigError(
            f"{path}: no Ray Serve file with an application named {APPLICATION} and its args; compare jobs/serve.yaml"
        ) from None


def parse(args: dict[str, Any]) -> Serving:
    """Raises ConfigError for an unknown key or a value that cannot be."""
    try:
        return Serving.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"key {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None


def named(models: list[str]) -> dict[str, str]:
    """``--model`` as given, ``NAME=BUNDLE`` or one bare ``BUNDLE``, as bundles by name."""
    bundles: dict[str, str] = {}
    for text in models:
        name, equals, uri = text.partition("=")
        name, uri = (name, uri) if equals and "/" not in name else ("default", text)
        if name in bundles:
            raise ConfigError(f"--model {text}: {name} is there already; write NAME=BUNDLE, each name once")
        bundles[name] = uri
    return bundles
