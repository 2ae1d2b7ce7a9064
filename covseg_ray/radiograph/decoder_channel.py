"""How a film's bytes travel to the decoding child, and its pixels or the reason against it back, over a socket.

Lengths stand before what they measure. What comes back is a line of JSON and the raw pixels: nothing is pickled, for
what a hostile film may have taken over must not run code on this side.
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
_LONGEST_ANSWER = 1 << 16


def send_film(channel: socket.socket, data: bytes, deadline: float) -> None:
    """Raises TimeoutError once `deadline` (of ``time.monotonic``) is past, OSError when the other side is gone."""
    _send(channel, _LENGTH.pack(len(data)), deadline)
    _send(channel, data, deadline)


def receive_film(channel: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(receive(channel, _LENGTH.size, None))
    return bytes(receive(channel, length, None))


def send_answer(channel: socket.socket, film: Radiograph | Rejected) -> None:
    text = json.dumps(_described(film)).encode()
    _send(channel, _LENGTH.pack(len(text)) + text, None)
    if isinstance(film, Radiograph):
        _send(channel, np.ascontiguousarray(film.pixels).data.cast("B"), None)


def _described(film: Radiograph | Rejected) -> dict[str, Any]:
    if isinstance(film, Rejected):
        return {"reason": film.reason, "detail": film.detail}
    shape, dtype = film.pixels.shape, film.pixels.dtype.name
    return {"shape": shape, "dtype": dtype, "spacing_mm": film.spacing_mm, "instance_uid": film.instance_uid}


def receive_answer(channel: socket.socket, limits: Limits, deadline: float) -> Radiograph | Rejected:
    """Raises as `send_film` does; and ValueError, LookupError or TypeError for what is no answer."""
    (length,) = _LENGTH.unpack(receive(channel, _LENGTH.size, deadline))
    if length > _LONGEST_ANSWER:
        raise ValueError(f"an answer of {length} bytes")
    answer = json.loads(receive(channel, length, deadline))
    if "reason" in answer:
        return Rejected(answer["reason"], answer["detail"])
    height, width = answer["shape"]
    if min(height, width) < 1 or height * width > limits.max_pixels:
        raise ValueError(f"an answer of {height} x {width} pixels")
    pixels_HW = np.empty((height, width), {"uint8": np.uint8, "uint16": np.uint16}[answer["dtype"]])
    _fill(channel, pixels_HW.data.cast("B"), deadline)
    spacing_mm = answer["spacing_mm"]
    return Radiograph(pixels_HW, (spacing_mm[0], spacing_mm[1]) if spacing_mm else None, answer["instance_uid"])


def receive(channel: socket.socket, count: int, deadline: float | None) -> bytearray:
    """`count` bytes. Raises TimeoutError once `deadline` is past, OSError when the other side is gone."""
    received = bytearray(count)
    _fill(channel, memoryview(received), deadline)
    return received


def _send(channel: socket.socket, data: bytes | memoryview, deadline: float | None) -> None:
    channel.settimeout(_left(deadline))
    channel.sendall(data)


def _fill(channel: socket.socket, view: memoryview, deadline: float | None) -> None:
    while view:
        channel.settimeout(_left(deadline))
        count = channel.recv_into(view)
        if not count:
            raise ConnectionError("the other side is gone")
        view = view[count:]


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
