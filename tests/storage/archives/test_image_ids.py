from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covseg_ray.storage.archives.image_ids import Copies, image_id

ANY = st.text(st.characters(), max_size=40)
NAMES = ANY | st.text(st.sampled_from("/.%#\\a\0é\udc80"), max_size=12) | st.text(min_size=180, max_size=400)
LONG = st.lists(st.text(st.sampled_from("ab/é%"), min_size=50, max_size=90), min_size=10, max_size=40).map("".join)


def assert_safe(made: str) -> None:
    components = made.split("/")
    assert all(components)
    assert not {".", ".."} & set(components)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]", made)
    assert max(len(component.encode()) for component in components) <= 200
    assert 0 < len(made.encode()) <= 700


@settings(max_examples=300)
@given(NAMES | LONG, NAMES | LONG | st.none(), st.integers(1, 3))
def test_every_name_gives_a_safe_id(path: str, member: str | None, copy: int) -> None:
    assert_safe(image_id(path, member, copy))


@settings(max_examples=300)
@given(ANY.filter(bool), ANY | st.none())
def test_an_id_without_a_hash_decodes_to_the_name(path: str, member: str | None) -> None:
    made = image_id(path, member)
    if "#" not in made:
        whole = path if member is None else f"{path}/{member}"
        assert unquote_to_bytes(made).decode("utf-8", "surrogatepass") == whole


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, st.integers(1, 3)), unique=True, min_size=2, max_size=30))
def test_files_never_share_an_id(named: list[tuple[str, int]]) -> None:
    made = [image_id(name, copy=copy) for name, copy in named]
    assert len(set(made)) == len(made)


@settings(max_examples=200)
@given(st.lists(NAMES, min_size=1, max_size=20))
def test_a_folder_never_shares_ids_with_an_archive_of_its_name(names: list[str]) -> None:
    copies = Copies()
    inside = [image_id("x.tar", name, copies.count(name)) for name in names]
    beside = [image_id(f"x.tar/{name}") for name in set(names)]
    assert len({*inside, *beside, image_id("x.tar")}) == len(inside) + len(beside) + 1


@pytest.mark.parametrize(
    ("path", "member", "copy", "expected"),
    [
        ("a/b c/é.png", None, 1, "a/b c/é.png"),
        ("x.tar", "in/a.png", 1, "x.tar/in/a.png"),
        ("x.tar", "in/a.png", 3, "x.tar/in/a.png#3"),
        ("y/x.tar", "", 1, "y/x.tar%2F"),
        ("y.zip/x.tar", "q.tar/a", 1, "y%2Ezip/x.tar/q.tar/a"),
        ("x.zip", "../../etc/passwd", 1, "x.zip/%2E%2E/%2E%2E/etc/passwd"),
        ("x.zip", "/abs//./a.", 1, "x.zip/%2Fabs/%2F%2E/a."),
        ("100%#1\\2\n.png", None, 1, "100%25%231%5C2%0A.png"),
        ("s3://bucket/a.png", None, 1, "s3:/%2Fbucket/a.png"),
        ("latin\udcfc.png", None, 1, "latin%ED%B3%BC.png"),
        ("", None, 1, "#"),
    ],
)
def test_ids_as_they_are_meant(path: str, member: str | None, copy: int, expected: str) -> None:
    assert image_id(path, member, copy) == expected


def test_what_is_cut_carries_a_hash_of_all_of_it() -> None:
    component = "é" * 101
    digest = hashlib.sha256(component.encode()).hexdigest()[:32]
    assert image_id(f"a/{component}/b") == f"a/{'é' * 83}#{digest}/b"
    deep = "/".join(["folder"] * 200)
    digest = hashlib.sha256(deep.encode()).hexdigest()[:32]
    assert image_id(deep) == "/".join(["folder"] * 95) + f"/#{digest}"


def test_names_are_counted_apart() -> None:
    copies = Copies()
    assert [copies.count(name) for name in ("a", "b", "a", "\udc80", "a", "\udc80")] == [1, 1, 2, 1, 3, 2]
