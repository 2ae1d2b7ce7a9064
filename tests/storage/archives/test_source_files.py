from __future__ import annotations

import os
from pathlib import Path

import pytest

from covseg_ray.errors import StorageError, UsageError
from covseg_ray.storage.archives.source_files import SourceFile, is_hidden, list_source, locate_file, open_archive
from covseg_ray.storage.filesystem import join, locate, write_bytes, write_files

TREE = ["a/b.png", "a-b.png", "a.png", "a/c/d e.png", "é.png", "z/1.png", "Z.txt", "a/[b].png", "q%20#?.png"]
HIDDEN = [".hidden.png", "a/.cache/x.png", "__MACOSX/a.png", "a/DICOMDIR", "a/c/dicomdir", "a/._b.png"]


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "with blank")
    return join(request.getfixturevalue("bucket"), tmp_path.name, "with blank")


def tree(folder: str) -> str:
    write_files(folder, {name: name.encode() for name in TREE + HIDDEN})
    return folder


def paths(source: str) -> list[str]:
    return [file.path for file in list_source(source)]


def test_a_folder_is_listed_by_the_bytes_of_its_paths(folder: str) -> None:
    found = list(list_source(tree(folder)))
    expected = sorted(TREE, key=str.encode)
    assert found == [SourceFile(join(folder, name), name, len(name.encode())) for name in expected]
    assert list(list_source(folder + "/")) == found


def test_each_file_is_where_it_says(folder: str) -> None:
    for file in list_source(tree(folder)):
        with open_archive(file.uri) as opened:
            assert opened.read() == file.path.encode()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["a-b.png", "a.png", "q%20#?.png", "é.png"]),
        ("a/**", ["[b].png", "b.png", "c/d e.png"]),
        ("**/*.png", ["a-b.png", "a.png", "a/[b].png", "a/b.png", "a/c/d e.png", "q%20#?.png", "z/1.png", "é.png"]),
        ("**/?.png", ["a.png", "a/b.png", "z/1.png", "é.png"]),
        ("a/c/d*", ["d e.png"]),
        ("[az]/*.png", ["a/[b].png", "a/b.png", "z/1.png"]),
        ("a/[[]b].png", ["[b].png"]),
        ("a/[b].png", ["[b].png"]),
        ("q%20#?.png", ["q%20#?.png"]),
    ],
)
def test_globs(folder: str, pattern: str, expected: list[str]) -> None:
    assert paths(join(tree(folder), pattern)) == expected


def test_a_glob_does_not_look_where_nothing_can_match(tmp_path: Path) -> None:
    """Folders too deep for any path are an error to whoever looks into them."""
    (tmp_path / "film.png").write_bytes(b"1")
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=folder)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert paths(f"{tmp_path}/*.png") == ["film.png"]
    with pytest.raises(StorageError, match="too long"):
        paths(f"{tmp_path}/**/*.png")


def test_one_file_may_be_hidden_for_it_was_named(folder: str) -> None:
    uri = join(tree(folder), ".hidden.png")
    assert list(list_source(uri)) == [SourceFile(uri, ".hidden.png", 11)]


@pytest.mark.parametrize("name", ["absent", "absent/*.png", "a/*.jpg"])
def test_nothing_there_is_one_clear_line(folder: str, name: str) -> None:
    with pytest.raises(StorageError, match=r"not found|no files there") as caught:
        list(list_source(join(tree(folder), name)))
    assert "\n" not in str(caught.value)


def test_nothing_but_hidden_files_is_nothing(folder: str) -> None:
    write_files(folder, {".a": b"1"})
    with pytest.raises(StorageError, match="no files there"):
        list(list_source(folder))


def test_globs_that_are_none(bucket: str) -> None:
    with pytest.raises(UsageError, match=r"write it as /\*\*/"):
        list_source("/data/a**/x.png")
    with pytest.raises(UsageError, match="name the bucket"):
        list_source("s3://covseg-test-*/x.png")


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize("source", ["s3://covseg-no-such-bucket/x", "s3://covseg-no-such-bucket/*.png"])
def test_a_missing_bucket_is_an_error(source: str) -> None:
    with pytest.raises(StorageError, match="covseg-no-such-bucket"):
        list(list_source(source))


def test_more_than_one_page_of_a_bucket(bucket: str, tmp_path: Path) -> None:
    folder = join(bucket, tmp_path.name)
    write_files(folder, {f"{number:04d}": b"1" for number in range(1003)})
    assert paths(folder) == [f"{number:04d}" for number in range(1003)]


def test_keys_that_are_no_ordinary_paths(bucket: str, tmp_path: Path) -> None:
    fs, root = locate(bucket).fs, bucket.removeprefix("s3://")
    keys = ["a//b.png", "c/../d.png", "e::f.png", "g\\h.png", "i?j#k.png", " l ", "m\x01.png", "/n.png"]
    for key in [*keys, "folder/"]:
        fs.call_s3("put_object", Bucket=root, Key=f"{tmp_path.name}/{key}", Body=key.encode())
    found = list(list_source(join(bucket, tmp_path.name)))
    assert [file.path for file in found] == sorted(keys)
    for file in found:
        location = locate_file(file.uri)
        assert location.fs.cat_file(location.path) == file.path.encode()
    for key in keys:  # one by one: not every server takes them in one document
        fs.call_s3("delete_object", Bucket=root, Key=f"{tmp_path.name}/{key}")


def test_links_and_devices_on_disk(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "film.png").write_bytes(b"12345")
    (tree / "link.png").symlink_to("film.png")
    (tree / "nowhere.png").symlink_to("absent.png")
    (tree / "sub/up").symlink_to("..")
    (tree / "loop").symlink_to("loop")
    os.mkfifo(tree / "pipe")
    assert [(file.path, file.size, file.problem) for file in list_source(str(tree))] == [
        ("film.png", 5, None),
        ("link.png", 5, None),
        ("loop", 0, "link"),
        ("nowhere.png", 0, "link"),
        ("pipe", 0, "not-a-file"),
        ("sub/up", 0, "link"),
    ]
    assert [file.problem for file in list_source(str(tree / "pipe"))] == ["not-a-file"]


def test_a_name_that_is_no_utf8_is_found_again(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/M\xfcller 100%.png"
    with open(name, "wb") as file:  # noqa: PTH123  a Path would be no help with bytes
        file.write(b"film")
    (found,) = list_source(str(tmp_path))
    assert found.uri == f"file://{tmp_path}/M%FCller%20100%25.png"
    assert found.path == "M\udcfcller 100%.png"
    with open_archive(found.uri) as opened:
        assert opened.read() == b"film"


def test_a_path_with_a_scheme_inside_is_a_path(tmp_path: Path) -> None:
    write_bytes(f"{tmp_path}/s3:/x", b"1")
    (file,) = list_source(str(tmp_path))
    assert locate_file(file.uri).fs.cat_file(locate_file(file.uri).path) == b"1"
    assert locate_file(f"{tmp_path}/s3://x").is_local


def test_other_stores_are_listed_too() -> None:
    fs = locate("memory://covseg-sources").fs
    for name in ("b.png", "a/c.png", ".x"):
        fs.pipe_file(f"/covseg-sources/{name}", name.encode())
    found = list(list_source("memory://covseg-sources"))
    assert [(file.path, file.size) for file in found] == [("a/c.png", 7), ("b.png", 5)]
    assert locate_file(found[0].uri).fs.cat_file(locate_file(found[0].uri).path) == b"a/c.png"


def test_a_manifest_names_files_below_it_and_elsewhere(folder: str, tmp_path: Path) -> None:
    write_bytes(join(folder, "one.png"), b"1")
    rows = ["one.png", "../x.png", join(folder, "two.png"), "s3://other/a.png", "/data/b.png", "file:///data/c d.png"]
    write_bytes(join(folder, "films.csv"), "\n".join(["uri", *rows, join(folder, "one.png")]).encode())
    assert sorted((file.path, file.uri) for file in list_source(join(folder, "films.csv"))) == sorted(
        [
            ("one.png", join(folder, "one.png")),
            ("../x.png", join(folder, "../x.png")),
            ("two.png", join(folder, "two.png")),
            ("s3://other/a.png", "s3://other/a.png"),
            ("/data/b.png", "/data/b.png"),
            ("/data/c d.png", "/data/c d.png"),
        ]
    )
    uris = [file.uri for file in list_source(join(folder, "films.csv"))]
    assert uris == sorted(uris)


def test_a_manifest_with_a_scheme_that_cannot_be_used_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_text("uri\na.png\nnonsense://x/y.png\n")
    with pytest.raises(StorageError, match="use a path or s3://"):
        list_source(str(tmp_path / "films.csv"))


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("a/b.png", False),
        ("../a.png", False),
        ("./a.png", False),
        ("a/.b/c.png", True),
        ("x/__MACOSX/y", True),
        ("DICOMDIR", True),
        ("DICOMDIR/IM1", False),
        ("..a/b", True),
    ],
)
def test_what_is_hidden(path: str, hidden: bool) -> None:
    assert is_hidden(path) is hidden
