"""The script that one writes first: a folder of PNG films, one process, a film at a time, eager fp32 torch, PNG masks.

    python tests/bench/peers/plain_segment.py FOLDER OUT --model BUNDLE

Prints JSON: ``films_per_second``, the loading of the model in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from plain_predict import PlainModel


def outline(model: PlainModel, path: Path, out: Path) -> None:
    size = model.spec.input_size
    film = Image.open(path).convert("L")
    square_SS = np.asarray(film.resize((size, size), Image.Resampling.BILINEAR))
    mask_SS = model.predict(square_SS[None])[0]
    Image.fromarray(mask_SS).resize(film.size, Image.Resampling.NEAREST).save(out / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    paths = sorted(given.films.glob("*.png"))
    begin = time.perf_counter()
    model = PlainModel(given.model)
    for path in paths:
        outline(model, path, given.out)
    print(json.dumps({"films_per_second": len(paths) / (time.perf_counter() - begin)}))


if __name__ == "__main__":
    main()
