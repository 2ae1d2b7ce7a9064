"""A model as the endpoint knows it, for tests that need none that computes."""

from __future__ import annotations

from covseg_ray.service.schema import ModelInfo

MODEL = ModelInfo(
    name="default",
    model_id="0" * 16,
    classes=("background", "infection"),
    input_size=32,
    resize="stretch",
    architecture="unet",
    encoder="resnet18",
    preprocess_version="1",
    version="0",
)
