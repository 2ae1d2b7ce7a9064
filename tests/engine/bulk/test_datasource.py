"""How an archive's listing becomes Ray Data's tasks."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from covseg_ray.engine.bulk.pipeline import BLOCK_FILMS
from covseg_ray.engine.bulk.read import LOADED, PICTURE_SIDE, ListingDatasource, Options
from covseg_ray.storage.archives.members import Member
from covseg_ray.storage.runs.worklist import write_worklist


@pytest.mark.parametrize(
    ("finished", "left"),
    [
        ([], [(0, 499, 500), (500, 999, 500), (1000, 1199, 200)]),
        ([*range(500, 1000), 0, 1199], [(0, 499, 500), (1000, 1199, 200)]),
        ([*range(499), *range(1000, 1200)], [(0, 499, 500), (500, 999, 500)]),
    ],
)
def test_each_file_of_a_listing_that_is_not_done_is_a_task(
    ray_session: None, tmp_path: Path, finished: list[int], left: list[tuple[int, int, int]]
) -> None:
    def task(rows: pa.Table) -> pa.Table:
        items = rows["item"].to_pylist()
        return pa.table({"first": [items[0]], "last": [items[-1]], "rows": [len(items)]})

    films = [Member(f"{i}.png", f"/films/{i}.png", "file", "", 0, 9) for i in range(1200)]
    listing = write_worklist(str(tmp_path), films, lambda count: None)
    inputs = ListingDatasource(str(tmp_path), listing, np.array(finished, np.int64))
    listed = ray.data.read_datasource(inputs, override_num_blocks=1)
    tasks = listed.map_batches(task, batch_size=None, batch_format="pyarrow", zero_copy_batch=True).take_all()
    assert sorted((each["first"], each["last"], each["rows"]) for each in tasks) == left


@pytest.mark.parametrize("pictures", [False, True])
def test_a_block_of_films_is_as_large_as_ray_data_lets_blocks_become(pictures: bool) -> None:
    write = ("overlays",) if pictures else ()
    options = Options("", 256, "stretch", (), "", "", write, datetime(2026, 1, 2, tzinfo=timezone.utc))
    film = {"image_id": "films/0123.png", "source": "s3://bucket/films/0123.png", "square": bytes(256 * 256)}
    row = film | ({"picture": bytes(PICTURE_SIDE**2)} if pictures else {})
    for films in BLOCK_FILMS.values():
        block = pa.Table.from_pylist([row] * films, schema=LOADED)
        most = films * options.film_bytes
        assert most < block.nbytes < 1.05 * most, "it is sent on as soon as it is whole, and not cut again"
