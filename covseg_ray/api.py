"""The Python API: what a command does, as a function, and one model that segments one film after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from covseg_ray.config import DEFAULT_MODEL
from covseg_ray.engine.bulk import run as bulk
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.evaluation import run as evaluation
from covseg_ray.engine.session import NO_PROGRESS, session
from covseg_ray.errors import RejectedFilmError, UsageError
from covseg_ray.radiograph.decoder_process import DecodingChild
from covseg_ray.radiograph.film import Rejected
from covseg_ray.radiograph.findings import class_masks, measure
from covseg_ray.radiograph.frontal_check import frontal
from covseg_ray.radiograph.geometry import standardise
from covseg_ray.radiograph.severity import Severity
from covseg_ray.segmentation.inference.predictor import local_predictor
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.storage.datasets.read import Subset
from covseg_ray.storage.filesystem import locate, read_bytes

UINT8_OR_16 = (np.dtype(np.uint8), np.dtype(np.uint16))

Film: TypeAlias = str | Path | bytes | NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model found on a film.

    ``masks`` are uint8 [H, W] of 0 and 1 at the film's own size: ``infection``, and ``lung`` where the model knows it
    (the whole lung, infected or not). ``infection_fraction`` and ``lung_fraction`` are shares of the film's pixels, 0
    to 1; ``severity`` measures the infected share of the lung. ``expected_iou`` (0 to 1) is the intersection over union
    with a reader's mask to be expected, None where the model has no curve for it. ``frontal`` (0 to 1) says how much
    the film is like a frontal chest film.
    """

    masks: Mapping[str, NDArray[np.uint8]]
    infection_fraction: float
    lung_fraction: float | None
    severity: Severity | None
    expected_iou: float | None
    frontal: float
    model_id: str


class Predictor:
    """A model that segments films in this process, without Ray. Encoded films are decoded in a child process, which
    ends with the ``with`` block, `close` or this process.

    Args:
        model: a bundle, its path or s3:// URI, or the name of a model of the package.
        engine: ``auto``, ``torch``, ``openvino`` or ``onnx``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        threads: of the CPU; all by default.

    Raises:
        StorageError, ModelError: the bundle cannot be read or used.
        UsageError, ConfigError: the engine is unknown, not installed, or cannot compute in that precision.
    """

    def __init__(
        self,
        model: str | Bundle = DEFAULT_MODEL,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        bundle = model if isinstance(model, Bundle) else load_bundle(model)
        self._predictor = local_predictor(bundle, engine, precision, threads)
        self._decoder = DecodingChild()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def model_id(self) -> str:
        return self._predictor.model_id

    def close(self) -> None:
        """End the child process that decodes; a later film starts a new one."""
        self._decoder.close()

    def predict(self, film: Film) -> Prediction:
        """Segment one film: the path or s3:// URI of a PNG, JPEG, TIFF or DICOM file, its bytes, or its pixels as uint8
        or uint16 [H, W], bright = dense.

        Raises:
            RejectedFilmError: the film cannot be segmented; ``reason`` says why.
            StorageError: the file is missing or cannot be read.
            UsageError: an array of another shape or type.
        """
        pixels_HW = film if isinstance(film, np.ndarray) else self._decode(film)
        if pixels_HW.ndim != 2 or pixels_HW.dtype not in UINT8_OR_16 or not pixels_HW.size:
            raise UsageError(f"film: give uint8 or uint16 [H, W], not {pixels_HW.dtype} {list(pixels_HW.shape)}")
        spec = self._predictor.spec
        square_SS, placement = standardise(pixels_HW, spec.input_size, spec.resize)
        (classes_SS,), (expected_iou,) = self._predictor.predict_with_expected_iou(square_SS[None])
        masks = class_masks(classes_SS, placement, spec.classes)
        found = measure(masks)
        return Prediction(
            masks,
            found.infection_fraction,
            found.lung_fraction,
            found.severity,
            expected_iou,
            frontal(square_SS, placement),
            self.model_id,
        )

    def _decode(self, film: str | Path | bytes) -> NDArray[np.uint8] | NDArray[np.uint16]:
        name, data = ("film", film) if isinstance(film, bytes) else (str(film), read_bytes(str(film)))
        found = self._decoder.decode(data)
        if isinstance(found, Rejected):
            raise RejectedFilmError(name, found.reason, found.detail)
        return found.pixels


def segment(
    source: str | Path,
    out: str | Path,
    model: str = DEFAULT_MODEL,
    *,
    write: Sequence[str] = (),
    engine: str = "auto",
    max_rejects: str | None = None,
    actors: int | None = None,
    reject_unlike: bool = False,
    address: str | None = None,
    allow_open: bool = False,
) -> Mapping[str, Any]:
    """Segment an archive, as ``covseg-ray segment`` does; the same call again resumes. Gives what ``summary.json``
    holds: counts of ``ok`` and ``rejected`` films, ``reasons``, ``films_per_second``, ``out``.

    Raises the errors of `covseg_ray.errors`: BusyError while another run holds ``out``.
    """
    request = bulk.Request(str(source), str(out), model, tuple(write), engine, max_rejects, actors, reject_unlike)
    return bulk.segment(request, NO_PROGRESS, address, allow_open)


def evaluate(
    bundle: str | Bundle,
    dataset: str | Path,
    split: str = "val",
    labels: Sequence[str] | None = None,
    *,
    workers: int = 1,
    exclude: frozenset[str] = frozenset(),
    address: str | None = None,
    allow_open: bool = False,
) -> evaluation.Evaluation:
    """Measure a model on a split of a packed dataset, as ``covseg-ray evaluate`` does: ``metrics`` are estimates with
    bootstrap 95 % intervals, by name.

    Raises DatasetError where the dataset holds no such films, StorageError and ModelError for what cannot be read.
    """
    model = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    with session(address, workers, allow_open):
        films = Subset(locate(str(dataset)).uri, split, labels, exclude)
        return evaluation.evaluate(model, films, workers)
