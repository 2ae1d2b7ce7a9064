from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from decoder_films import FILM, GREY_HW, as_image, ended
from dicom_films import as_lossless_jpeg, compressed, encoded, film
from pydicom.uid import JPEG2000Lossless

from covseg_ray.errors import CovsegError
from covseg_ray.radiograph.decode import decode
from covseg_ray.radiograph.decoder_process import DecodingChild
from covseg_ray.radiograph.film import Limits, Radiograph, Rejected

DEEP_HW = np.random.default_rng(4).integers(0, 65536, (64, 96), dtype=np.uint16)


def same(shown: Radiograph | Rejected, expected: Radiograph | Rejected) -> bool:
    if isinstance(shown, Rejected) or isinstance(expected, Rejected):
        return shown == expected
    assert shown.pixels.dtype == expected.pixels.dtype
    assert shown.pixels.flags.writeable
    np.testing.assert_array_equal(shown.pixels, expected.pixels)
    return (shown.spacing_mm, shown.instance_uid) == (expected.spacing_mm, expected.instance_uid)


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=action)
    thread.start()
    yield
    thread.join()


def at_the_next_child(child: DecodingChild, old: int, signal_number: int) -> None:
    """Signal the child that comes after `old` as soon as it is there."""
    while child.pid in (None, old):
        time.sleep(0.001)
    os.kill(child.pid or 0, signal_number)


def test_the_child_decodes_what_this_process_does() -> None:
    films = [
        as_image(GREY_HW, "PNG"),
        as_image(DEEP_HW, "TIFF"),
        as_image(GREY_HW, "JPEG"),
        encoded(film(DEEP_HW, PixelSpacing=[0.14, 0.15])),
        encoded(compressed(film(DEEP_HW), JPEG2000Lossless)),
        b"",
        b"no film",
        FILM[:1000],
        encoded(film(DEEP_HW, Modality="CT")),
    ]
    with DecodingChild() as child:
        assert child.pid is None
        for data in films:
            assert same(child.decode(data), decode(data))
        pid = child.pid
        assert pid is not None
        assert pid != os.getpid()
        assert all(isinstance(child.decode(data), Radiograph) for data in films[:5])
        assert child.pid == pid
    assert child.pid is None
    assert ended(pid, 1)


def test_a_closed_child_starts_again() -> None:
    child = DecodingChild()
    child.decode(FILM)
    first = child.pid
    child.close()
    assert isinstance(child.decode(FILM), Radiograph)
    assert child.pid not in (None, first)
    child.close()


def test_limits_hold_on_both_sides() -> None:
    with DecodingChild(Limits(max_bytes=len(FILM), max_pixels=GREY_HW.size)) as child:
        assert isinstance(child.decode(FILM), Radiograph)
    with DecodingChild(Limits(max_bytes=len(FILM) - 1)) as child:
        assert child.decode(FILM) == decode(FILM, Limits(max_bytes=len(FILM) - 1))
        assert child.pid is None, "a file over the limit is not even sent"
    with DecodingChild(Limits(max_pixels=GREY_HW.size - 1)) as child:
        assert child.decode(FILM) == decode(FILM, Limits(max_pixels=GREY_HW.size - 1))


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_film_whose_child_crashes_is_tried_once_more(crash: signal.Signals) -> None:
    with DecodingChild() as child:
        child.decode(b"no film")
        first = child.pid
        assert first is not None

        def kill() -> None:
            time.sleep(0.2)
            os.kill(first, crash)
            os.kill(first, signal.SIGCONT)

        os.kill(first, signal.SIGSTOP)  # so that the film is surely in its hands when it dies
        with meanwhile(kill):
            assert same(child.decode(FILM), decode(FILM))
        assert child.pid not in (None, first)


def test_a_film_whose_two_children_crash_is_rejected() -> None:
    with DecodingChild() as child:
        child.decode(b"no film")
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        with meanwhile(lambda: at_the_next_child(child, first, signal.SIGKILL)):
            shown = child.decode(FILM)
        assert shown == Rejected("decoder-crashed", "the decoding process ended (by SIGKILL)")
        assert same(child.decode(FILM), decode(FILM))


def test_a_film_whose_two_children_hang_is_rejected() -> None:
    with DecodingChild(seconds=4) as child:
        child.decode(b"no film")
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        start = time.monotonic()
        with meanwhile(lambda: at_the_next_child(child, first, signal.SIGSTOP)):
            shown = child.decode(FILM)
        assert shown == Rejected("decoder-hung", "no answer within 4 seconds")
        assert 8 <= time.monotonic() - start < 20
        assert child.pid is None
        assert ended(first, 1)


def test_a_film_too_large_for_the_childs_memory() -> None:
    bomb = as_image(np.zeros((9500, 9500), np.uint8), "PNG")
    assert len(bomb) < 100_000
    with DecodingChild(memory_bytes=300 * 2**20) as child:
        assert child.decode(bomb) == Rejected("too-large", "not enough memory to decode it")
        assert same(child.decode(FILM), decode(FILM))
    with DecodingChild() as child:
        assert isinstance(child.decode(bomb), Radiograph)


def test_a_child_that_cannot_start_is_not_the_films_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with DecodingChild() as child, pytest.raises(CovsegError, match="films cannot be decoded"):
        child.decode(FILM)


def test_ctrl_c_leaves_the_child_alone() -> None:
    with DecodingChild() as child:
        child.decode(FILM)
        pid = child.pid
        assert pid is not None
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
        assert same(child.decode(FILM), decode(FILM))
        assert child.pid == pid


def test_an_interrupted_film_is_not_taken_for_the_next() -> None:
    # Python raises KeyboardInterrupt by this handler alone, and sets it not where a shell runs it in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    with DecodingChild() as child:
        child.decode(FILM)
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        with meanwhile(interrupt), pytest.raises(KeyboardInterrupt):
            child.decode(encoded(film(DEEP_HW)))
        assert ended(first, 1)
        assert same(child.decode(FILM), decode(FILM))
    signal.signal(signal.SIGINT, before)


def test_threads_take_turns() -> None:
    films = [as_image(GREY_HW[: 100 + each], "PNG") for each in range(12)]
    with DecodingChild() as child, ThreadPoolExecutor(4) as pool:
        for shown, data in zip(pool.map(child.decode, films), films, strict=True):
            assert same(shown, decode(data))


DECODES = """
import sys
from covseg_ray.radiograph.decoder_process import DecodingChild
from covseg_ray.radiograph.decode import decode
data = sys.stdin.buffer.read()
if sys.argv[1] == "itself":
    decode(data)
else:
    with DecodingChild() as child:
        child.decode(data)
"""


def test_what_a_codec_prints_is_not_seen(tmp_path: Path) -> None:
    data = bytearray(as_lossless_jpeg(DEEP_HW, tmp_path))
    scan = data.index(b"\xff\xda") + 200
    data[scan : scan + 40] = b"\xff\x00" * 20  # no Huffman code has so many ones
    printed = [
        subprocess.run([sys.executable, "-c", DECODES, who], input=bytes(data), capture_output=True, check=True)
        for who in ("itself", "child")
    ]
    assert b"Corrupt JPEG data" in printed[0].stderr
    assert (printed[1].stdout, printed[1].stderr) == (b"", b"")


def test_the_child_imports_nothing_heavy() -> None:
    code = (
        "import sys, covseg_ray.radiograph.decoder_process;print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"numpy", "PIL", "covseg_ray"} <= set(loaded)
    assert not {"torch", "ray", "pyarrow", "fsspec", "pydantic", "pydicom"} & set(loaded)
