from __future__ import annotations

import itertools
import os
import random
import socket
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_files import info, png, tar, tar_gz, zipped

from covseg_ray.errors import StorageError
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.film import Radiograph, Rejected
from covseg_ray.storage.archives.members import HEAD_BYTES, MAX_BYTES, PROBLEMS, Member
from covseg_ray.storage.archives.read import PAGE_MEMBERS, list_members, read_members
from covseg_ray.storage.filesystem import delete, join, locate, write_bytes, write_files

FILMS = [(f"{number}.png", png(number)) for number in range(4)]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "with blank")
    return join(request.getfixturevalue("bucket"), tmp_path.name, "with blank")


def everything(place: str) -> dict[str, bytes]:
    """Write a folder of films in every way that they may lie; returns each film by its image id, in order."""
    nested = zipped([("inner.tar", tar(FILMS)), ("film.png", png(9))])
    write_files(
        place,
        {
            "a/plain.png": png(20),
            "b.tar": tar(FILMS),
            "c.TAR.GZ": tar_gz(FILMS),
            "d/e.tgz": tar_gz(FILMS[:1]),
            "d/f.zip": zipped(FILMS),
            "g.zip": nested,
            "h.tar/film.png": png(21),
            "i.txt": b"a text",
            "a/.hidden.png": png(22),
            "__MACOSX/a.png": png(22),
            "DICOMDIR": b"1",
        },
    )
    return {
        "a/plain.png": png(20),
        **{f"b.tar/{name}": film for name, film in FILMS},
        **{f"c.TAR.GZ/{name}": film for name, film in FILMS},
        "d/e.tgz/0.png": FILMS[0][1],
        **{f"d/f.zip/{name}": film for name, film in FILMS},
        "g.zip/inner.tar": b"",
        "g.zip/film.png": png(9),
        "h%2Etar/film.png": png(21),
        "i.txt": b"",
    }


def test_every_film_is_listed_in_order_and_read(place: str) -> None:
    films = everything(place)
    members = list(list_members(place))
    assert [member.image_id for member in members] == list(films)
    for (member, data), wanted in zip(read_members(members), members, strict=True):
        assert member == wanted
        if films[member.image_id]:
            assert data == films[member.image_id]
        else:
            assert isinstance(data, Rejected)
            assert data.reason == "not-an-image"


def test_films_are_read_in_the_order_asked_for(place: str) -> None:
    films = everything(place)
    members = [member for member in list_members(place) if films[member.image_id]]
    random.Random(0).shuffle(members)
    found = list(read_members(members))
    assert [member for member, _ in found] == members
    assert [data for _, data in found] == [films[member.image_id] for member in members]


@pytest.mark.parametrize(
    ("source", "ids"),
    [
        ("d/f.zip", [f"f.zip/{name}" for name, _ in FILMS]),
        ("b.tar", [f"b.tar/{name}" for name, _ in FILMS]),
        ("a/plain.png", ["plain.png"]),
        ("d", ["e.tgz/0.png", *(f"f.zip/{name}" for name, _ in FILMS)]),
        ("*/*.tgz", ["d/e.tgz/0.png"]),
    ],
)
def test_a_source_is_a_file_an_archive_a_folder_or_a_glob(place: str, source: str, ids: list[str]) -> None:
    everything(place)
    members = list(list_members(join(place, source)))
    assert [member.image_id for member in members] == ids
    assert not [data for _, data in read_members(members) if isinstance(data, Rejected)]


def test_a_manifest_opens_archives_and_names_what_is_missing(place: str) -> None:
    films = everything(place)
    rows = [
        "d/f.zip",
        "a/plain.png",
        "absent.png",
        "absent.zip",
        "a",
        "h.tar",
        f"{place}/b.tar",
        "a/plain.png/x.png",
        "n" * 300,
    ]
    write_bytes(join(place, "films.csv"), "\n".join(["uri", *rows]).encode())
    members = list(list_members(join(place, "films.csv")))
    found = {
        member.image_id: data.reason if isinstance(data, Rejected) else data for member, data in read_members(members)
    }
    assert found == {
        **{name: film for name, film in films.items() if name.startswith(("d/f.zip/", "a/plain", "b.tar/"))},
        "absent.png": "missing",
        "absent.zip": "missing",
        "a": "not-a-file",
        "h.tar": "not-a-file",
        "a/plain.png/x.png": "missing",
        next(name for name in found if name.startswith("nnn")): "missing",
    }


def test_an_archive_that_is_none_stands_beside_the_others(place: str) -> None:
    write_files(place, {"a.zip": b"no zip", "b.tar": tar(FILMS)[:1500], "c.tgz": b"", "d.zip": zipped(FILMS[:1])})
    members = list(list_members(place))
    assert [(member.image_id, member.problem) for member in members] == [
        ("a.zip", "broken-archive"),
        ("b.tar/0.png", None),
        ("b.tar", "broken-archive"),
        ("c.tgz", "broken-archive"),
        ("d.zip/0.png", None),
    ]
    reasons = [data.reason if isinstance(data, Rejected) else "" for _, data in read_members(members)]
    assert reasons == ["broken-archive", "", "broken-archive", "broken-archive", ""]


def test_a_small_and_an_empty_zip_are_read_wherever_they_lie(place: str) -> None:
    write_files(place, {"a.zip": zipped([]), "b.zip": zipped([("a", b"")])})
    members = list(list_members(place))
    assert [(member.image_id, member.size) for member in members] == [("b.zip/a", 0)]
    assert [data for _, data in read_members(members)] == [Rejected("empty", "the file holds no bytes")]


def test_files_that_change_after_listing_are_told(place: str) -> None:
    long = b"\xff\xd8\xff" + bytes(100_000)
    names = {"a.png": FILMS[0][1], "b.png": FILMS[1][1], "c.png": FILMS[2][1], "d.png": long, "e.png": long}
    write_files(place, {**names, "f.png": b"\xff\xd8\xff", "g.tar": tar(FILMS), "h.zip": zipped(FILMS)})
    members = list(list_members(place))
    write_files(place, {"b.png": FILMS[1][1] + b"x", "c.png": FILMS[2][1][:-1], "d.png": long[:80_000], "f.png": b""})
    write_files(place, {"e.png": long + b"x", "g.tar": tar(FILMS)[:1024]})
    delete(join(place, "a.png"))
    delete(join(place, "h.zip"))
    reasons = [data.reason if isinstance(data, Rejected) else "" for _, data in read_members(members)]
    assert reasons[:6] == ["missing", "changed", "truncated", "truncated", "changed", "truncated"]
    assert reasons[6:] == ["", "truncated", "truncated", "truncated", *["missing"] * 4]


@pytest.mark.parametrize("size", [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 2 * HEAD_BYTES])
def test_sizes_around_the_first_read(place: str, size: int) -> None:
    data = (b"\x89PNG\r\n\x1a\n" + random.Random(size).randbytes(size))[:size]
    write_files(place, {"a.png": data, "b.tar": tar([("a", data)]), "c.tgz": tar_gz([("a", data)])})
    write_bytes(join(place, "d.zip"), zipped([("a", data)]))
    write_bytes(join(place, "films.csv"), f"uri\n{place}/a.png\n".encode())
    sources = [place, join(place, "films.csv")]
    found = [data for source in sources for _, data in read_members(list_members(source))]
    expected = {0: "empty", 1: "not-an-image"}.get(size)
    films = [data.reason if isinstance(data, Rejected) else data for data in found]
    assert films == [expected or data] * 4 + ["not-an-image"] + [expected or data]


def test_a_film_over_the_limit_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(MAX_BYTES + 1)
    (tmp_path / "films.csv").write_text("uri\nlarge.png\n")
    (tmp_path / "x.tar").write_bytes(info("large.png", MAX_BYTES + 1).tobuf())
    detail = f"{MAX_BYTES + 1:,} bytes, the limit is {MAX_BYTES:,}"
    for source in ("large.png", "films.csv", "x.tar"):
        _, data = next(iter(read_members(list_members(str(tmp_path / source)))))
        assert data == Rejected("too-large", detail)


def test_an_object_that_must_be_restored_first_is_refused_alone(bucket: str, tmp_path: Path) -> None:
    fs, folder = locate(bucket).fs, join(bucket, tmp_path.name)
    write_files(folder, {"b.png": png(1), "c.tar": tar(FILMS)})
    try:
        for name in ("a.png", "d.tar"):
            key = f"{tmp_path.name}/{name}"
            fs.call_s3("put_object", Bucket=bucket[5:], Key=key, Body=tar(FILMS), StorageClass="GLACIER")
        fs.cat_file(f"{bucket[5:]}/{tmp_path.name}/a.png")
    except PermissionError:
        pass
    except OSError as error:
        pytest.skip(f"this server has no cold storage class: {error}")
    else:
        pytest.skip("this server reads cold objects at once")
    members = list(list_members(folder))
    assert [(member.image_id, member.problem) for member in members if member.problem] == [("d.tar", "refused")]
    found = {member.image_id: data for member, data in read_members(members)}
    assert found["a.png"] == found["d.tar"] == Rejected("refused", PROBLEMS["refused"])
    assert found["b.png"] == png(1)


def test_a_file_without_permission_is_refused_alone(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    for name in ("a.png", "b.png", "c.tar"):
        (tmp_path / name).write_bytes(png(1))
    (tmp_path / "a.png").chmod(0)
    (tmp_path / "c.tar").chmod(0)
    found = [data for _, data in read_members(list_members(str(tmp_path)))]
    assert [data.reason if isinstance(data, Rejected) else "" for data in found] == ["refused", "", "refused"]


def test_storage_that_is_down_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    for kind in ("file", "tar.gz", "zip"):
        with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
            list(read_members([Member("x", "s3://bucket/x", kind, "x", 0, 10)]))
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        list_members("s3://bucket/x")


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize("kind", ["file", "tar", "tar.gz", "zip"])
def test_a_missing_bucket_is_an_error(kind: str) -> None:
    with pytest.raises(StorageError, match="bucket"):
        list(read_members([Member("x", "s3://covseg-no-such-bucket/x", kind, "x", 0, 10)]))


def test_nothing_there_is_an_error(place: str) -> None:
    with pytest.raises(StorageError, match="not found"):
        list_members(join(place, "absent"))


def test_many_archives_and_many_members_stay_in_order(tmp_path: Path) -> None:
    """More archives than are listed at once, and one of more members than are listed ahead."""
    many = [(f"{number:05d}", b"x") for number in range(2 * PAGE_MEMBERS + 5)]
    for number in range(40):
        (tmp_path / f"{number:02d}.tar").write_bytes(tar(many if number == 3 else FILMS, tarfile.USTAR_FORMAT))
    expected = [f"{number:02d}.tar/{name}" for number in range(40) for name, _ in (many if number == 3 else FILMS)]
    assert [member.image_id for member in list_members(str(tmp_path))] == expected


def test_listing_and_reading_may_be_left_early(tmp_path: Path) -> None:
    everything(str(tmp_path))
    before = threading.active_count()
    members = list_members(str(tmp_path))
    first = [next(members) for _ in range(6)]
    members.close()
    films = read_members(iter(first * 100))
    assert isinstance(next(films)[1], bytes)
    films.close()
    assert threading.active_count() == before


def test_reading_takes_few_members_ahead(tmp_path: Path) -> None:
    everything(str(tmp_path))
    member = next(list_members(str(tmp_path)))
    taken: list[int] = []

    def asked() -> Iterator[Member]:
        for number in range(1000):
            taken.append(number)
            yield member

    films = read_members(asked())
    for _ in range(10):
        next(films)
    assert len(taken) < 60
    films.close()


def test_large_films_are_not_gathered_ahead(tmp_path: Path) -> None:
    """Forty films of 16 MiB: four of them are ahead of the one that is asked for."""
    data = b"\xff\xd8\xff" + bytes(16 * 2**20)
    (tmp_path / "film.jpg").write_bytes(data)
    (member,) = list_members(str(tmp_path / "film.jpg"))
    tracemalloc.start()
    assert all(len(film) == len(data) for _, film in read_members([member] * 40) if isinstance(film, bytes))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * len(data)


def test_real_films_come_out_of_every_kind_of_archive_as_they_lie(real_films: Path, tmp_path: Path) -> None:
    folder = real_films / "Infection Segmentation Data/Val"
    members = list(list_members(str(folder)))
    on_disk = sorted(path for path in folder.rglob("*") if path.is_file())
    assert sorted(member.container for member in members) == [str(path) for path in on_disk]
    few = members[:: len(members) // 40]
    films = [(member.image_id, Path(member.container).read_bytes()) for member in few]
    (tmp_path / "a.tar").write_bytes(tar(films))
    (tmp_path / "b.tar.gz").write_bytes(tar_gz(films))
    (tmp_path / "c.zip").write_bytes(zipped(films))
    packed = list(read_members(list_members(str(tmp_path))))
    names = ("a.tar", "b.tar.gz", "c.zip")
    assert [member.image_id for member, _ in packed] == [f"{name}/{each}" for name in names for each, _ in films]
    for data, (_, film) in zip((data for _, data in packed), itertools.cycle(films)):
        assert data == film
        assert isinstance(decode(film), Radiograph)
