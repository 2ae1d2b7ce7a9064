"""Image ids from the names of files and archive members: unique, the same in every run, safe as relative paths.

Characters that a path must not contain are percent-encoded, and so are ``%`` and ``#``: an id without ``#`` decodes to
the name. ``#`` and a number mark a repeated name, ``#`` and a hash a shortened one.
"""

from __future__ import annotations

import hashlib
import re

ARCHIVE_ENDINGS = ("tar", "tar.gz", "tgz", "zip")
COMPONENT_BYTES = 200
ID_BYTES = 700  # S3 takes keys of 1,024 bytes: the rest is for the folder that a film's mask goes to
HASH_DIGITS = 32

# Control characters, line separators, surrogates (they stand for bytes that are no UTF-8), a backslash, the two signs.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\%#]")
_DOTS = re.compile(r"(?<![^/])\.{1,2}(?![^/])")
_STRAY_SLASHES = re.compile(r"^/+|/+$|(?<=/)/+")
_ARCHIVE_FOLDER = re.compile(rf"\.(?=(?:{'|'.join(map(re.escape, ARCHIVE_ENDINGS))})(?:/|%2F))", re.IGNORECASE)


def image_id(path: str, member: str | None = None, copy: int = 1) -> str:
    """The id of the file ``path``, relative to the source, or of ``member`` in the archive at ``path``.

    UTF-8, no component over 200 bytes, the whole at most 700, never empty. ``copy`` counts the members of one name
    from 1.
    """
    # A bucket may hold an archive and a folder of the same name: such a folder's dot is escaped.
    text = _ARCHIVE_FOLDER.sub("%2E", _escaped(path)) or "#"
    if member is not None:
        text += _escaped(f"x/{member}")[1:]
    return _cut(f"{text}#{copy}" if copy > 1 else text)


class Copies:
    """Counts the occurrences of each name; holds only a hash of it, since archives have millions of names."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def count(self, name: str) -> int:
        # Two names of one hash share their count, which keeps the pairs of name and count unique all the same.
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest, "big")
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key]


def _escaped(path: str) -> str:
    for pattern in (_UNSAFE, _DOTS, _STRAY_SLASHES):
        path = pattern.sub(_percent, path)
    return path


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _cut(text: str) -> str:
    components = [_cut_component(component) for component in text.split("/")]
    whole = "/".join(components)
    if len(whole.encode()) <= ID_BYTES:
        return whole
    kept, room = [], ID_BYTES - len(_hash(text))
    for component in components:
        room -= len(component.encode()) + len("/")
        if room < 0:
            break
        kept.append(component)
    return "/".join([*kept, _hash(text)])


def _cut_component(component: str) -> str:
    data = component.encode()
    if len(data) <= COMPONENT_BYTES:
        return component
    sign = _hash(component)
    return data[: COMPONENT_BYTES - len(sign)].decode(errors="ignore") + sign


def _hash(text: str) -> str:
    return f"#{hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]}"
