"""Model bundles at a URI."""

from __future__ import annotations

from covseg_ray.errors import ModelError, StorageError
from covseg_ray.segmentation.bundle import WEIGHTS, Bundle
from covseg_ray.segmentation.bundle_files import SPEC, check_listing, from_files, to_files
from covseg_ray.storage.filesystem import list_files, read_files, write_files


def load_bundle(uri: str) -> Bundle:
    """The bundle at ``uri``. A folder that holds a pickle is refused before anything in it is read."""
    names = list_files(uri)
    if not names:
        raise StorageError(f"{uri}: no bundle there; give the folder that covseg-ray train wrote")
    try:
        check_listing(names)
        return from_files(read_files(uri, [WEIGHTS, SPEC]))
    except ModelError as error:
        raise ModelError(f"{uri}: {error}") from error


def save_bundle(uri: str, bundle: Bundle) -> None:
    write_files(uri, to_files(bundle))
