"""Bundles behind an HTTP endpoint on Ray Serve: the application that ``covseg-ray serve`` and ``serve deploy`` run."""

from __future__ import annotations

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig

from covseg_ray.engine.bundles import load_bundle
from covseg_ray.engine.serve_ingress import RETRY_AFTER_SECONDS, Ingress
from covseg_ray.engine.serve_model import Segmenter
from covseg_ray.segmentation.predictor import films_at_once
from covseg_ray.service.settings import Settings
from covseg_ray.serving import Serving

# Requests at one ingress: those being read and decoded as well as those that wait for a model.
INGRESS_REQUESTS = 256


def build(args: Serving) -> serve.Application:
    """The application, as ``import_path`` of a Ray Serve file names it.

    Every bundle is read and its network built here: a bad one is refused, and what was deployed before serves on.
    """
    device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
    models = {name: _model(name, uri, args, device) for name, uri in args.models.items()}
    settings = Settings(
        max_requests=args.waiting + args.replicas[1] * 2 * films_at_once(device),
        max_body_bytes=args.max_body_mib * 2**20,
        body_seconds=args.body_seconds,
        decoders=args.decoders,
        keys_file=args.keys_file,
    )
    ingress = serve.deployment(
        name="ingress",
        num_replicas=args.ingresses,
        max_ongoing_requests=INGRESS_REQUESTS,
        max_queued_requests=INGRESS_REQUESTS,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_SECONDS),
        max_surge_percent=100,
        ray_actor_options={"num_cpus": 0},
    )(Ingress)
    return ingress.bind(settings, models)


def _model(name: str, uri: str, args: Serving, device: str) -> serve.Application:
    bundle = load_bundle(uri)
    bundle.network()
    batch = films_at_once(device)
    fewest, most = args.replicas
    deployment = serve.deployment(
        name=f"model-{name}",
        # One batch is computed while the next one gathers.
        max_ongoing_requests=2 * batch,
        max_queued_requests=args.waiting,
        autoscaling_config=AutoscalingConfig(
            min_replicas=fewest,
            max_replicas=most,
            target_ongoing_requests=batch,
            upscale_delay_s=args.upscale_seconds,
            downscale_delay_s=args.downscale_seconds,
        ),
        max_surge_percent=100,
        health_check_period_s=2,
        ray_actor_options={"num_cpus": args.cores, "num_gpus": 1 if device == "cuda" else 0},
    )(Segmenter)
    return deployment.bind(name, uri, bundle.model_id, args.engine, device, batch, args.cores)
