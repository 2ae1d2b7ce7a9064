"""The protocol between a process and its decoding child: a film's bytes one way, its pixels or a rejection back.

Every message has its length before it. An answer is one JSON document and the raw pixels. Nothing is pickled: a child
that a hostile film has taken over must not run code in its parent.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

import numpy as np

from covseg_ray.radiograph.film import Limits, Radiograph, Rejected

_LENGTH = struct.Struct("<Q")
_MAX_HEADER = 1 << 16


def send_film(channel: socket.socket, data: bytes, deadline: float) -> None:
    """Raises TimeoutError after `deadline` (of ``time.monotonic``), OSError when the peer is gone."""
    _send(channel, _LENGTH.pack(len(data)), deadline)
    _send(channel, data, deadline)


def receive_film(channel: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(receive(channel, _LENGTH.size, None))
    return bytes(receive(channel, length, None))


def send_answer(channel: socket.socket, film: Radiograph | Rejected) -> None:
    if isinstance(film, Rejected):
        header: dict[str, Any] = {"reason": film.reason, "detail": film.detail}
    else:
        header = {"shape": film.pixels.shape, "dtype": film.pixels.dtype.name}
        header |= {"spacing_mm": film.spacing_mm, "instance_uid": film.instance_uid}
    text = json.dumps(header).encode()
    _send(channel, _LENGTH.pack(len(text)) + text, None)
    if isinstance(film, Radiograph):
        _send(channel, np.ascontiguousarray(film.pixels).data.cast("B"), None)


def receive_answer(channel: socket.socket, limits: Limits, deadline: float) -> Radiograph | Rejected:
    """Raises as `send_film` does; and ValueError, LookupError or TypeError for a malformed answer."""
    (length,) = _LENGTH.unpack(receive(channel, _LENGTH.size, deadline))
    if length > _MAX_HEADER:
        raise ValueError(f"an answer of {length} bytes")
    answer = json.loads(receive(channel, length, deadline))
    if "reason" in answer:
        return Rejected(answer["reason"], answer["detail"])
    height, width = answer["shape"]
    if min(height, width) < 1 or height * width > limits.max_pixels:
        raise ValueError(f"an answer of {height} x {width} pixels")
    pixels_HW = np.empty((height, width), {"uint8": np.uint8, "uint16": np.uint16}[answer["dtype"]])
    _receive_into(channel, pixels_HW.data.cast("B"), deadline)
    spacing_mm = answer["spacing_mm"]
    return Radiograph(pixels_HW, (spacing_mm[0], spacing_mm[1]) if spacing_mm else None, answer["instance_uid"])


def receive(channel: socket.socket, count: int, deadline: float | None) -> bytearray:
    """`count` bytes. Raises TimeoutError after `deadline`, OSError when the peer is gone."""
    received = bytearray(count)
    _receive_into(channel, memoryview(received), deadline)
    return received


def _send(channel: socket.socket, data: bytes | memoryview, deadline: float | None) -> None:
    channel.settimeout(_remaining(deadline))
    channel.sendall(data)


def _receive_into(channel: socket.socket, view: memoryview, deadline: float | None) -> None:
    while view:
        channel.settimeout(_remaining(deadline))
        count = channel.recv_into(view)
        if not count:
            raise ConnectionError("the peer is gone")
        view = view[count:]


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
