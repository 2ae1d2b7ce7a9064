"""The network that a run begins with: random, with an encoder's weights, or that of a bundle."""

from __future__ import annotations

import torch
from torch import nn

from covseg_ray.config.train import Job
from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.errors import UsageError
from covseg_ray.segmentation.network.build import build_network
from covseg_ray.segmentation.network.weights import load_encoder_state
from covseg_ray.storage.filesystem import read_bytes


def initial_network(job: Job) -> nn.Module:
    """The network before the first step; also the check that its names in the job are known."""
    torch.manual_seed(job.seed)
    if job.model.start:
        return started_from(job)
    weights = job.model.encoder_weights
    from_file = weights not in ("imagenet", "none")
    network = build_network(
        job.model.architecture, job.model.encoder, "none" if from_file else weights, len(job.model.classes)
    )
    if from_file:
        load_encoder_state(read_bytes(weights), network.get_submodule("encoder"))
    return network


def started_from(job: Job) -> nn.Module:
    """The network of the bundle at ``model.start``, which must be the job's own."""
    bundle = load_bundle(job.model.start)
    pairs = {
        "architecture": (bundle.spec.architecture, job.model.architecture),
        "encoder": (bundle.spec.encoder, job.model.encoder),
        "classes": (list(bundle.spec.classes), list(job.model.classes)),
    }
    for key, (there, here) in pairs.items():
        if there != here:
            raise UsageError(
                f"model.start: the bundle {job.model.start} has {key} {there!r} and the job {here!r}; "
                f"set model.{key} to what the bundle has, or start from another"
            )
    return bundle.network()
