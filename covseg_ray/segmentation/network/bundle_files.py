"""A trained model as three files: ``model.safetensors``, ``model.json`` and a card, ``README.md``; two more in
``openvino/int8/`` for an 8-bit model.

Reading a bundle runs no code from it: tensors come from safetensors, names are looked up in the library's own lists,
and the model's id is computed anew from what was read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from pydantic import ValidationError

from covseg_ray.errors import ModelError
from covseg_ray.segmentation.network.bundle import WEIGHTS, Bundle, BundleSpec
from covseg_ray.segmentation.network.card import card
from covseg_ray.segmentation.network.graph import BIN, XML, Graph
from covseg_ray.segmentation.network.weights import read_safetensors

SPEC, CARD = "model.json", "README.md"
INT8 = {f"openvino/int8/{name}": name for name in (XML, BIN)}
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".joblib"}


def to_files(bundle: Bundle) -> dict[str, bytes]:
    """The files of a bundle by name."""
    from safetensors.torch import save

    content = {"model_id": bundle.model_id, **bundle.spec.model_dump(mode="json")}
    return {
        WEIGHTS: save({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(bundle.state.items())}),
        SPEC: (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(),
        CARD: card(bundle).encode(),
        **({path: bundle.graph.files[name] for path, name in INT8.items()} if bundle.graph else {}),
    }


def needed(names: Collection[str]) -> list[str]:
    """Which files of a bundle's folder :func:`from_files` reads."""
    return [WEIGHTS, SPEC, *(path for path in INT8 if path in names)]


def check_listing(names: Collection[str]) -> None:
    """Refuse a folder that holds a pickle or is no bundle, before anything of it is read.

    Raises:
        ModelError: which file is there and must not be, or is missing.
    """
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() in _PICKLES and path.parts[0] != "openvino":
            raise ModelError(f"bundle: {name} can run code when it is opened, so nothing was; a bundle holds {WEIGHTS}")
    for name in (WEIGHTS, SPEC):
        if name not in names:
            raise ModelError(f"bundle: {name} is missing; give the folder that covseg-ray train wrote")


def from_files(files: Mapping[str, bytes]) -> Bundle:
    """A bundle from its files' bytes; only those of :func:`needed` are read.

    Raises:
        ModelError: a pickle among them, a missing or damaged file, an unknown architecture or encoder, tensors that do
            not fit it, or weights other than those the id was made from.
    """
    check_listing(files)
    spec, model_id = _read_spec(files[SPEC])
    bundle = Bundle(spec, read_safetensors(files[WEIGHTS], WEIGHTS), _read_graph(spec, files))
    bundle.network()
    if bundle.model_id != model_id:
        raise ModelError(f"bundle: says model_id {model_id} but its contents make {bundle.model_id}; fetch it again")
    return bundle


def _read_graph(spec: BundleSpec, files: Mapping[str, bytes]) -> Graph | None:
    """The files that compute in place of the tensors."""
    if spec.int8 is None:
        return None
    for path, name in INT8.items():
        if path not in files or hashlib.sha256(files[path]).hexdigest() != spec.int8.sha256.get(name):
            raise ModelError(f"bundle: {path} is missing or damaged; fetch it again")
    return Graph("openvino", {name: files[path] for path, name in INT8.items()})


def _read_spec(data: bytes) -> tuple[BundleSpec, str]:
    try:
        content = dict(json.loads(data))
        model_id = str(content.pop("model_id", None))
        return BundleSpec.model_validate(content), model_id
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{SPEC}: {where}: {first['msg']}; written by another version of covseg-ray?") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{SPEC}: not a JSON object; fetch the bundle again") from error
