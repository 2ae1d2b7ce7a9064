"""A model in 8-bit integers, by NNCF for OpenVINO: about a quarter of the time on a CPU that multiplies them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covseg_ray.errors import UsageError
from covseg_ray.segmentation.inference.predictor import films_to_classes
from covseg_ray.segmentation.network.bundle import UNMEASURED, Bundle, Int8
from covseg_ray.segmentation.network.graph import Graph, load, openvino_graph, openvino_model, translate

FIRST_KEPT, LAST_KEPT = 1, 6  # convolutions at the network's input and output stay in floating point


def quantise(bundle: Bundle, films_NHW: NDArray[np.uint8], dataset_digest: str) -> Bundle:
    """The model in 8-bit integers, without metrics and without a curve of the expected IoU.

    Weights get a scale for each channel; activations one for each tensor, from the ranges that they have on
    ``films_NHW``, uint8 ``[N, S, S]`` (post-training quantisation, Jacob et al. 2018, section 3); biases are corrected
    for what that shifts, layer after layer (Nagel et al. 2019, section 4.2). The first convolution and the last six
    are left as they are.

    Raises:
        UsageError: it is an 8-bit model already, or OpenVINO or NNCF is not installed.
    """
    if bundle.graph is not None:
        raise UsageError("--int8: the model is in 8-bit integers already")
    nncf = _nncf()
    side = bundle.spec.input_size
    model = openvino_model(translate("openvino", films_to_classes(bundle), (1, side, side)))
    films = nncf.Dataset([film_HW[None] for film_HW in films_NHW])
    with contextlib.redirect_stdout(sys.stderr):  # its progress; standard output is for results
        quantised = nncf.quantize(
            model,
            films,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(films_NHW),
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope(names=_edges(model)),
        )
    return _bundle(bundle, openvino_graph(quantised), dataset_digest, len(films_NHW))


def _edges(model: Any) -> list[str]:
    """The names of the first and the last convolutions."""
    names = [each.get_friendly_name() for each in model.get_ordered_ops() if each.get_type_name() == "Convolution"]
    return names[:FIRST_KEPT] + names[-LAST_KEPT:]


def _bundle(bundle: Bundle, graph: Graph, dataset_digest: str, films: int) -> Bundle:
    made = Int8(
        made_of=bundle.model_id,
        dataset=dataset_digest,
        films=films,
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in graph.files.items()},
    )
    return Bundle(bundle.spec.model_copy(update={"int8": made} | UNMEASURED), bundle.state, graph)


def _nncf() -> Any:
    try:
        load("openvino")
        nncf: Any = load("nncf")
    except ImportError as error:
        raise UsageError(f"--int8: {error.name} is not installed; pip install 'covseg-ray[int8]'") from error
    nncf.set_log_level(logging.ERROR)
    return nncf
