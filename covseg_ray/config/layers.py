"""Where the values of a job come from: preset < TOML file < environment < ``--set KEY=VALUE``, by dotted key.

A preset is a job file of the package, by name. An environment variable is ``COVSEG_`` and the key in capitals, with two
underscores between levels: ``COVSEG_TRAIN__EPOCHS=3`` sets ``train.epochs``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from covseg_ray.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"
Preset = Literal["paper", "best", "finish-best", "scratch", "finish-scratch", "tune"]


def read_layers(path: str | None, overrides: Sequence[str], keys: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """What is given for a job of these ``keys``, later layers over earlier ones, the preset that they name first."""
    environment = {key: _value(os.environ[variable(key)]) for key in keys if variable(key) in os.environ}
    given = [("environment", environment), ("--set", dict(_parse_override(each) for each in overrides))]
    if path:
        is_preset = path in get_args(Preset) and not Path(path).exists()
        given.insert(0, (path, {"preset": path} if is_preset else _read_file(path)))
    preset = next((layer["preset"] for _, layer in reversed(given) if "preset" in layer), "")
    return [(f"preset {preset}", read_preset(preset)), *given] if preset in get_args(Preset) else given


def read_preset(name: str) -> dict[str, Any]:
    """The values of a preset."""
    return _read_file(str(PRESETS / f"{name}.toml"))


def variable(key: str) -> str:
    """The environment variable of a key."""
    return "COVSEG_" + key.upper().replace(".", "__")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree by dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one value of a tree."""
    *parents, last = dotted.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"key {dotted}: {parent} is a value, not a section")
    tree[last] = value


def _read_file(path: str) -> dict[str, Any]:
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"job file {path} does not exist; give a file, or one of the presets {', '.join(get_args(Preset))}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"job file {path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"job file {path} is not TOML: {error}") from None
    return dict(flatten(tree))


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write it as KEY=VALUE, for example --set train.epochs=3")
    return key.strip(), _value(value)


def _value(text: str) -> Any:
    """A TOML value where it is one (``3``, ``true``, ``["COVID-19"]``), the bare text otherwise."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
