"""What a Python program writes to a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys


def shown_on_a_terminal(program: str) -> str:
    """What ``program`` writes to a standard error that is a terminal of 80 columns without colour."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen([sys.executable, "-c", program], stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while process.poll() is None or not shown:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end has closed
            break
    process.wait()
    os.close(ours)
    return shown.decode()
