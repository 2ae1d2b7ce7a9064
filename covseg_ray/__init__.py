"""covseg-ray outlines COVID-19 infection on chest X-rays, at the scale of an archive."""

from __future__ import annotations

__version__ = "0.1.0"
