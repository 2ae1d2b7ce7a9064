"""What an export of a model is asked for; checked before torch or an engine is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from covseg_ray.errors import UsageError

FORMATS = ("onnx", "openvino")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """Export to the format ``to``, one of ``FORMATS``; with ``int8`` as a bundle that computes in 8-bit integers.

    ``calibrate`` is the URI of the dataset that ranges come from and on which the export is compared with the model.

    Raises:
        UsageError: an unknown format, or ``int8`` with another format than ``openvino`` or without ``calibrate``.
    """

    to: str
    int8: bool = False
    calibrate: str | None = None

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise UsageError(f"--to {self.to}: unknown; it takes {', '.join(FORMATS)}")
        if self.int8 and self.to != "openvino":
            raise UsageError("--int8 requires --to openvino")
        if self.int8 and self.calibrate is None:
            raise UsageError("--int8 requires films to calibrate on: give --calibrate DATASET")
