"""Model bundles at a URI, or by the name of one that the package holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from covseg_ray import __version__
from covseg_ray.errors import ModelError, StorageError
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.bundle_files import check_listing, from_files, needed, to_files
from covseg_ray.segmentation.network.graph import Graph
from covseg_ray.segmentation.network.preprocess import PREPROCESS_VERSION
from covseg_ray.storage.filesystem import join, list_files, read_files, write_files

if TYPE_CHECKING:
    from covseg_ray.service.schema import ModelInfo

SHIPPED = Path(__file__).parents[1] / "models"


def load_bundle(uri: str) -> Bundle:
    """The bundle at ``uri``: a path, an s3:// URI, or a name that :func:`resolve` knows.

    A folder that holds a pickle is refused before anything in it is read.

    Raises:
        StorageError: there is no bundle, or it cannot be read.
        ModelError: the bundle is damaged, or not one that can be trusted.
    """
    folder = resolve(uri)
    names = list_files(folder)
    if not names:
        known = ", ".join(shipped_models())
        raise StorageError(
            f"{uri}: no bundle there; give the folder that covseg-ray train wrote"
            + (f", or a model of the package by name: {known}" if known else "")
        )
    try:
        check_listing(names)
        return from_files(read_files(folder, needed(names)))
    except ModelError as error:
        raise ModelError(f"{uri}: {error}") from error


def shipped_models() -> dict[str, Path]:
    """The bundles that the package holds, by name. None where a job runs from a package without them."""
    return {file.parent.name: file.parent for file in sorted(SHIPPED.glob("*/model.json"))}


def resolve(uri: str) -> str:
    """The folder of the package's model of that name, unless something of that name lies in the working directory;
    any other URI as it is."""
    shipped = shipped_models()
    return str(shipped[uri]) if uri in shipped and not Path(uri).exists() else uri


def save_bundle(uri: str, bundle: Bundle) -> None:
    """Write a bundle's files to ``uri``."""
    write_files(uri, to_files(bundle))


def model_info(name: str, bundle: Bundle) -> ModelInfo:
    """What an endpoint says of a bundle that it serves under ``name``."""
    from covseg_ray.service.schema import ModelInfo

    known = bundle.spec.model_dump(include=set(ModelInfo.model_fields))
    return ModelInfo(
        name=name, model_id=bundle.model_id, preprocess_version=PREPROCESS_VERSION, version=__version__, **known
    )


def save_graph(uri: str, graph: Graph) -> None:
    """Write a translated network for other programs; a bundle that is there already stays as it is."""
    write_files(join(uri, "openvino") if graph.engine == "openvino" else uri, graph.files)
