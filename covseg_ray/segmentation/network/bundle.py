"""A trained model: its description and its tensors."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, field_validator
from torch import Tensor, nn

from covseg_ray import __version__
from covseg_ray.errors import ModelError, UsageError
from covseg_ray.segmentation.estimate import Estimate
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.decision import Decision, Rule
from covseg_ray.segmentation.network.graph import Graph
from covseg_ray.segmentation.network.preprocess import IMAGENET_MEAN, IMAGENET_STD

WEIGHTS = "model.safetensors"
INFECTION, LUNG = "infection", "lung"
UNMEASURED: dict[str, Any] = {"metrics": {}, "metrics_how": "", "expected_iou": ()}
_CHANGES_A_MASK = {"architecture", "encoder", "classes", "input_size", "resize", "normalisation", "decision", "int8"}


class Normalisation(BaseModel, frozen=True, extra="forbid"):
    """``range`` scales each film, then ``(x - mean) / std`` by channel."""

    range: Literal["minmax"] = "minmax"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class TrainedOn(BaseModel, frozen=True, extra="forbid"):
    """The films that a model was trained on: the dataset's URI and digest, the split, labels and number of images; and
    the ids of the models whose probabilities it learned besides."""

    dataset: str
    digest: str
    split: str
    labels: tuple[str, ...]
    images: int
    teachers: tuple[str, ...] = ()


class Int8(BaseModel, frozen=True, extra="forbid"):
    """Of an 8-bit model: the id of the model it was made of, the calibration dataset's digest and number of films, and
    the SHA-256 of the graph's files."""

    made_of: str
    dataset: str
    films: int
    sha256: dict[str, str]


class BundleSpec(BaseModel, frozen=True, extra="forbid"):
    """What ``model.json`` holds, beside the model's id. ``input_size`` is the side of the square, in pixels.

    ``expected_iou`` is the curve from a film's agreement to its expected IoU, see
    `covseg_ray.segmentation.inference.expected_iou`; without one, no IoU is expected.
    """

    schema_version: Literal[1] = 1
    architecture: str
    encoder: str
    classes: tuple[str, ...] = Field(default=("background", INFECTION), min_length=2, max_length=64)
    input_size: int = Field(default=256, ge=32, le=4096, multiple_of=32)
    resize: Literal["stretch", "letterbox"] = "stretch"
    normalisation: Normalisation = Normalisation()
    decision: Decision = "argmax"
    int8: Int8 | None = None
    trained_on: TrainedOn | None = None
    metrics: dict[str, Estimate] = {}
    metrics_how: str = ""
    expected_iou: tuple[tuple[float, float], ...] = ()
    package_version: str = __version__
    created: datetime = Field(default_factory=lambda: datetime.now(timezone.utc).replace(microsecond=0))

    @field_validator("classes")
    @classmethod
    def _names_infection_once(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if INFECTION not in classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes must differ and one must be {INFECTION!r}")
        return classes

    @property
    def infection(self) -> int:
        """The index of the class ``infection``."""
        return self.classes.index(INFECTION)

    @property
    def fallback_class(self) -> int:
        """The index of the class that removed infection gets: lung where the model knows lungs, else background."""
        return self.classes.index(LUNG) if LUNG in self.classes else 0


@dataclass(frozen=True)
class Bundle:
    """A model: its description, and its tensors by name as in ``network().state_dict()``. ``graph`` computes in place
    of them where the model is one of 8-bit integers."""

    spec: BundleSpec
    state: dict[str, Tensor]
    graph: Graph | None = None

    @functools.cached_property
    def model_id(self) -> str:
        """16 hexadecimal digits of a SHA-256 over the weights and all that changes a mask."""
        digest = hashlib.sha256(self.spec.model_dump_json(include=_CHANGES_A_MASK, exclude_none=True).encode())
        for name, tensor in sorted(self.state.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    def with_rule(self, rule: Rule) -> Bundle:
        """The same weights with another decision rule, without metrics: those hold for the present rule.

        Raises:
            UsageError: an 8-bit model, whose files hold its rule.
        """
        self.require_tensors()
        return Bundle(self.spec.model_copy(update={"decision": rule} | UNMEASURED), self.state)

    def half_precision(self) -> Bundle:
        """The same model with its weights stored in half precision, half as large; computation stays as it is. Batch
        normalisation stays in float32: its tensors are small, and their values may exceed the range.

        Raises:
            UsageError: an 8-bit model, which does not compute with these weights.
        """
        self.require_tensors()
        state = {
            name: tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
            for name, tensor in self.state.items()
        }
        return Bundle(self.spec.model_copy(update=UNMEASURED), state)

    def require_tensors(self) -> None:
        """Raise UsageError for an 8-bit model, which cannot be changed."""
        if self.graph is not None:
            raise UsageError("this 8-bit model is fixed as it is; take the model that it was exported from")

    def network(self) -> nn.Module:
        """The network with its weights in float32, in evaluation mode on the CPU; the caller's random state is kept.

        Raises:
            ModelError: an unknown architecture or encoder, or tensors that do not fit it.
        """
        with torch.random.fork_rng(devices=[]):
            network = build_network(self.spec.architecture, self.spec.encoder, None, len(self.spec.classes))
        wanted = network.state_dict()
        for name in sorted(wanted.keys() | self.state.keys()):
            if name not in self.state or name not in wanted or self.state[name].shape != wanted[name].shape:
                fault = (
                    "lacks" if name not in self.state else "has an unknown" if name not in wanted else "has a misfit"
                )
                raise ModelError(
                    f"{WEIGHTS}: {fault} tensor {name!r} for {self.spec.architecture} with {self.spec.encoder}; "
                    "save the bundle again"
                )
        network.load_state_dict(self.state)
        return network.eval()
