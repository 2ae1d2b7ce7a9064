"""What is shown of an error that others raise."""

from __future__ import annotations

import pytest

from covseg_ray.errors import first_line


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error from cause
    return caught.value


@pytest.mark.parametrize(
    ("error", "cause", "line"),
    [
        (OSError("disk gone\nsecond line"), None, "disk gone"),
        (OSError(" \n padded "), None, "padded"),
        (OSError(""), ValueError("the cause\nmore"), "the cause"),
        (OSError(None), ValueError("the cause"), "the cause"),
        (OSError("its own"), ValueError("the cause"), "its own"),
        (KeyError(), None, "KeyError"),
        (OSError(""), ValueError(""), "OSError"),
    ],
    ids=["many lines", "spaces", "empty", "None", "both", "without text", "both empty"],
)
def test_one_line_is_shown_whatever_the_error_says(error: Exception, cause: Exception | None, line: str) -> None:
    assert first_line(raised(error, cause)) == line
