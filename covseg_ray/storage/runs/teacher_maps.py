"""The maps of a training run's teachers, a Parquet file for each unit of the training films: uint8 probabilities in
255ths, plain binary as the pixels of a dataset."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from covseg_ray.errors import DatasetError, first_line
from covseg_ray.storage.filesystem import join, list_files, parquet_damage, read_bytes, write_bytes

_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("maps", pa.binary(), nullable=False),
    ]
)


def write_maps(folder: str, unit: int, image_ids: Sequence[str], maps_NCHW: NDArray[np.uint8]) -> None:
    """Write the maps of a unit's films, whole or not at all."""
    films, _, height, width = maps_NCHW.shape
    columns = [list(image_ids), [height] * films, [width] * films, [each.tobytes() for each in maps_NCHW]]
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=_SCHEMA),
        buffer,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    write_bytes(join(folder, _name(unit)), buffer.getvalue())


def missing_maps(folder: str, units: int) -> list[int]:
    """Those of so many units whose maps have not been written."""
    there = set(list_files(folder))
    return [unit for unit in range(units) if _name(unit) not in there]


def read_maps(folder: str, unit: int) -> NDArray[np.uint8]:
    """The maps of a unit's films in their order, uint8 ``[N, C, H, W]``. Raises DatasetError for a damaged file."""
    uri = join(folder, _name(unit))
    data = read_bytes(uri)

    def damaged(error: Exception) -> Exception:
        return DatasetError(f"{uri}: damaged ({first_line(error)}); delete it and run the same command again")

    with parquet_damage(damaged):
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    height, width = (int(table[name][0].as_py()) for name in ("height", "width"))
    return np.stack([np.frombuffer(each.as_buffer(), np.uint8).reshape(-1, height, width) for each in table["maps"]])


def _name(unit: int) -> str:
    return f"{unit:05d}.parquet"
