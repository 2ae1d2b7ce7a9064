"""Where the checkout is, and the real films beside it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
REAL_FILMS = SHARED / "data/covid-qu-ex"
