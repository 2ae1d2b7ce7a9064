"""Model bundles at a URI."""

from __future__ import annotations

from covseg_ray.errors import ModelError, StorageError
from covseg_ray.segmentation.network.bundle import Bundle
from covseg_ray.segmentation.network.bundle_files import check_listing, from_files, needed, to_files
from covseg_ray.segmentation.network.graph import Graph
from covseg_ray.storage.filesystem import join, list_files, read_files, write_files


def load_bundle(uri: str) -> Bundle:
    """The bundle at ``uri``. A folder that holds a pickle is refused before anything in it is read."""
    names = list_files(uri)
    if not names:
        raise StorageError(f"{uri}: no bundle there; give the folder that covseg-ray train wrote")
    try:
        check_listing(names)
        return from_files(read_files(uri, needed(names)))
    except ModelError as error:
        raise ModelError(f"{uri}: {error}") from error


def save_bundle(uri: str, bundle: Bundle) -> None:
    write_files(uri, to_files(bundle))


def save_graph(uri: str, graph: Graph) -> None:
    """Write a translated network for other programs; a bundle that is there already stays as it is."""
    write_files(join(uri, "openvino") if graph.engine == "openvino" else uri, graph.files)
