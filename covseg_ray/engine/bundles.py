"""Model bundles at a URI."""

from __future__ import annotations

from covseg_ray.segmentation.bundle import Bundle, from_files, to_files
from covseg_ray.storage.filesystem import read_files, write_files


def load_bundle(uri: str) -> Bundle:
    return from_files(read_files(uri))


def save_bundle(uri: str, bundle: Bundle) -> None:
    write_files(uri, to_files(bundle))
