from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest

from covseg_ray.radiograph.decoder_channel import receive_answer, receive_film, send_answer, send_film
from covseg_ray.radiograph.film import Limits, Radiograph, Rejected

LIMITS = Limits(max_pixels=100)
PIXELS_HW = np.arange(60, dtype=np.uint16).reshape(6, 10)


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def soon() -> float:
    return time.monotonic() + 0.2


def answer(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "film",
    [
        Radiograph(PIXELS_HW, (0.1, 0.2), "1.2.3"),
        Radiograph(PIXELS_HW.astype(np.uint8)),
        Radiograph(PIXELS_HW.T),  # not contiguous
        Rejected("corrupt", "öde"),
    ],
)
def test_what_is_sent_comes_back(film: Radiograph | Rejected, channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    send_film(ours, b"film", soon())
    assert receive_film(theirs) == b"film"
    send_answer(theirs, film)
    received = receive_answer(ours, LIMITS, soon())
    if isinstance(film, Rejected) or isinstance(received, Rejected):
        assert received == film
    else:
        np.testing.assert_array_equal(received.pixels, film.pixels)
        assert received.pixels.dtype == film.pixels.dtype
        assert (received.spacing_mm, received.instance_uid) == (film.spacing_mm, film.instance_uid)


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("<Q", 1 << 40),
        answer(b"\xff\xfe"),
        answer(b"[]"),
        answer(b"{}"),
        answer(b'{"reason": "corrupt"}'),
        answer(json.dumps({"shape": [11, 10], "dtype": "uint8"}).encode()),
        answer(json.dumps({"shape": [-1, -10], "dtype": "uint8"}).encode()),
        answer(json.dumps({"shape": [2, 2], "dtype": "object"}).encode()),
        answer(json.dumps({"shape": 4, "dtype": "uint8"}).encode()),
    ],
)
def test_what_is_no_answer_is_noticed(sent: bytes, channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    theirs.sendall(sent)
    with pytest.raises((ValueError, LookupError, TypeError)):
        receive_answer(ours, LIMITS, soon())


def test_the_deadline_holds_for_all_parts_together(channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    with pytest.raises(TimeoutError):
        receive_answer(ours, LIMITS, soon())
    with pytest.raises(TimeoutError):
        send_film(ours, bytes(1 << 24), soon())
    with pytest.raises(TimeoutError):
        receive_answer(ours, LIMITS, time.monotonic() - 1)
    theirs.sendall(answer(b"{}")[:9])
    with pytest.raises(TimeoutError):
        receive_answer(ours, LIMITS, soon())


def test_a_side_that_is_gone_is_noticed(channel: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = channel
    theirs.sendall(answer(b"{}")[:9])
    theirs.close()
    with pytest.raises(OSError, match="gone"):
        receive_answer(ours, LIMITS, soon())
    with pytest.raises(OSError, match="pipe"):
        send_film(ours, b"film", soon())
