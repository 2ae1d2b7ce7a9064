"""Bundles behind an HTTP endpoint on Ray Serve: the application that ``covseg-ray serve`` and ``serve deploy`` run."""

from __future__ import annotations

import math
import os
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from covseg_ray.config.serve import Serving, parse
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.serving.ingress import RETRY_AFTER_SECONDS, Ingress
from covseg_ray.engine.serving.replica import Segmenter
from covseg_ray.errors import ConfigError
from covseg_ray.segmentation.inference.predictor import default_chunk, device_for
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.service.settings import Settings

# Requests at one ingress: those being read and decoded as well as those that wait for a model.
INGRESS_REQUESTS = 256
HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"


def build(args: dict[str, Any]) -> serve.Application:
    """The application, as ``import_path`` of a Ray Serve file names it; ``args`` are those of `Serving`.

    Every bundle is read and its network built here: a bad one is refused, and what was deployed before serves on.
    Raises ConfigError where Ray's HAProxy, which hides who calls, is switched on and there are no API keys.
    """
    serving = parse(args)
    if os.environ.get(HAPROXY) == "1" and not serving.has_keys:
        raise ConfigError(f"{HAPROXY}=1: behind HAProxy everybody is let in, so API keys are needed; give a keys_file")
    bundles = {name: load_bundle(uri) for name, uri in serving.models.items()}
    gpus = int(ray.cluster_resources().get("GPU", 0))
    devices = {name: device_for(bundle, serving.engine, gpus > 0) for name, bundle in bundles.items()}
    share = gpu_share(list(devices.values()).count("cuda"), gpus)
    models = {name: _model(name, bundle, serving, devices[name], share) for name, bundle in bundles.items()}
    settings = Settings(
        max_requests=serving.waiting + serving.replicas[1] * 2 * max(map(default_chunk, devices.values())),
        max_body_bytes=serving.max_body_mib * 2**20,
        body_seconds=serving.body_seconds,
        decoders=serving.decoders,
        keys_file=serving.keys_file,
    )
    ingress = serve.deployment(
        name="ingress",
        num_replicas=serving.ingresses,
        max_ongoing_requests=INGRESS_REQUESTS,
        max_queued_requests=INGRESS_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_SECONDS),
        max_surge_percent=100,
        ray_actor_options={"num_cpus": 0},
    )(Ingress)
    return ingress.bind(settings, models)


def gpu_share(models: int, gpus: int) -> float:
    """Of a GPU, for each replica: all of it, or as much as lets every model have a replica."""
    return 1 / max(1, math.ceil(models / max(1, gpus)))


def _model(name: str, bundle: Bundle, serving: Serving, device: str, share: float) -> serve.Application:
    bundle.network()
    batch = default_chunk(device)
    # One batch is computed while the next one gathers, and those that wait do it there: for what does not fit into the
    # replicas the ingress asks them again and again how long their queues are, which takes from the cores.
    ongoing = 2 * batch + serving.waiting
    fewest, most = serving.replicas
    deployment = serve.deployment(
        name=f"model-{name}",
        max_ongoing_requests=ongoing,
        max_queued_requests=serving.waiting,
        autoscaling_config=AutoscalingConfig(
            min_replicas=fewest,
            max_replicas=most,
            target_ongoing_requests=batch,
            upscale_delay_s=serving.upscale_seconds,
            downscale_delay_s=serving.downscale_seconds,
        ),
        max_surge_percent=100,
        health_check_period_s=2,
        ray_actor_options={"num_cpus": serving.cores, "num_gpus": share if device == "cuda" else 0},
    )(Segmenter)
    return deployment.bind(name, serving.models[name], bundle.model_id, serving.engine, device, batch, serving.cores)
