"""Lists of films to segment: a CSV or Parquet file with a column ``uri`` or ``image``."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from covseg_ray.errors import DatasetError, first_line
from covseg_ray.storage.filesystem import Location, parquet_damage, translated

MANIFESTS = (".csv", ".parquet")
COLUMNS = ("uri", "image")


def manifest_entries(location: Location) -> list[str]:
    """The values of the column, without repeats. Raises DatasetError for a manifest that cannot be used."""
    uri = location.uri
    read = _csv_entries if location.path.lower().endswith(".csv") else _parquet_entries
    with translated(uri), location.fs.open(location.path, "rb") as file:
        entries = list(dict.fromkeys(read(uri, file)))
    if not entries:
        raise DatasetError(f"{uri}: no rows; name a film a row in the column {' or '.join(COLUMNS)}")
    return entries


def _csv_entries(uri: str, file: IO[bytes]) -> Iterator[str]:
    try:
        with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
            rows = csv.DictReader(text, strict=True)
            column = _column(uri, rows.fieldnames or ())
            for number, row in enumerate(rows, start=2):
                yield _entry(f"{uri}, row {number}", column, row[column])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{uri}: not a CSV file in UTF-8 ({error})") from error


def _parquet_entries(uri: str, file: IO[bytes]) -> Iterator[str]:
    def damaged(error: Exception) -> Exception:
        return DatasetError(f"{uri}: not a Parquet file with names in it ({first_line(error)})")

    number = 0
    with parquet_damage(damaged):
        parquet = pq.ParquetFile(file)
        column = _column(uri, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(columns=[column]):
            for value in batch.column(0).cast(pa.string()).to_pylist():
                number += 1
                yield _entry(f"{uri}, row {number}", column, value)


def _column(uri: str, names: Collection[str]) -> str:
    column = next((name for name in COLUMNS if name in names), None)
    if column is None:
        raise DatasetError(f"{uri}: no column {' or '.join(COLUMNS)}; name a film a row in one of them")
    return column


def _entry(where: str, column: str, value: str | None) -> str:
    entry = (value or "").strip()
    if not entry or "\0" in entry:
        raise DatasetError(f"{where}: the column {column} is empty or holds a zero byte; name a file there")
    return entry
