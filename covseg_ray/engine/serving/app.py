"""The Ray Serve application of an endpoint, which ``covseg-ray serve`` and ``serve deploy`` run."""

from __future__ import annotations

import math
import os
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from covseg_ray.config.serve import ServeConfig, parse
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.engine.serving.ingress import RETRY_AFTER_SECONDS, Ingress
from covseg_ray.engine.serving.replica import ModelReplica
from covseg_ray.engine.session import counted
from covseg_ray.errors import ConfigError
from covseg_ray.segmentation.inference.predictor import default_chunk, device_for
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.service.backend import Settings

# Requests at one ingress, both those being decoded and those that wait for a model.
INGRESS_REQUESTS = 256
HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"


def build(args: dict[str, Any]) -> serve.Application:
    """The application, as ``import_path`` of a Ray Serve file names it; ``args`` are the keys of `ServeConfig`.

    Every bundle is read and its network built here: an invalid one raises, and what was deployed before stays. Raises
    ConfigError if Ray's HAProxy, which hides the caller's address, is on and there are no API keys.
    """
    config = parse(args)
    if os.environ.get(HAPROXY) == "1" and not config.has_keys:
        raise ConfigError(f"{HAPROXY}=1: behind HAProxy every caller is let in, so API keys are needed; set keys_file")
    bundles = {name: load_bundle(uri) for name, uri in config.models.items()}
    gpus = int(counted("GPU"))
    devices = {name: device_for(bundle, config.engine, gpus > 0) for name, bundle in bundles.items()}
    share = gpu_share(list(devices.values()).count("cuda"), gpus)
    models = {name: _model(name, bundle, config, devices[name], share) for name, bundle in bundles.items()}
    settings = Settings(
        max_requests=config.waiting + config.replicas[1] * 2 * max(map(default_chunk, devices.values())),
        max_body_bytes=config.max_body_mib * 2**20,
        body_seconds=config.body_seconds,
        decoders=config.decoders,
        keys_file=config.keys_file,
    )
    ingress = serve.deployment(
        name="ingress",
        num_replicas=config.ingresses,
        max_ongoing_requests=INGRESS_REQUESTS,
        max_queued_requests=INGRESS_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_SECONDS),
        max_surge_percent=100,
        ray_actor_options={"num_cpus": 0},
    )(Ingress)
    return ingress.bind(settings, models)


def gpu_share(models: int, gpus: int) -> float:
    """GPUs per replica: one, or the share with which every model has a replica."""
    return 1 / max(1, math.ceil(models / max(1, gpus)))


def _model(name: str, bundle: Bundle, config: ServeConfig, device: str, share: float) -> serve.Application:
    bundle.network()
    batch = default_chunk(device)
    # One batch is computed while the next one gathers, and waiting requests are queued in the replica: otherwise the
    # ingress polls the replicas' queue lengths, which costs CPU time.
    ongoing = 2 * batch + config.waiting
    fewest, most = config.replicas
    deployment = serve.deployment(
        name=f"model-{name}",
        max_ongoing_requests=ongoing,
        max_queued_requests=config.waiting,
        autoscaling_config=AutoscalingConfig(
            min_replicas=fewest,
            max_replicas=most,
            target_ongoing_requests=batch,
            upscale_delay_s=config.upscale_seconds,
            downscale_delay_s=config.downscale_seconds,
        ),
        max_surge_percent=100,
        health_check_period_s=2,
        ray_actor_options={"num_cpus": config.cores, "num_gpus": share if device == "cuda" else 0},
    )(ModelReplica)
    return deployment.bind(name, config.models[name], bundle.model_id, config.engine, device, batch, config.cores)
