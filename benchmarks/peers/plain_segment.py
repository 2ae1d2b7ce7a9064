"""The script that one writes first: a folder of PNG films, one process, a film at a time, eager fp32 torch, PNG masks.

    python benchmarks/peers/plain_segment.py FOLDER OUT --model BUNDLE

Prints JSON: ``films_per_second``, the loading of the model in it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from film_files import folder_words, list_films, name_of, read_film, read_square, write_mask
from plain_predict import PlainModel


def segment(model: PlainModel, film: str, out: Path) -> None:
    size, square_SS = read_square(read_film(film), model.spec.input_size)
    write_mask(model.predict(square_SS[None])[0], size, out / name_of(film))


def main() -> None:
    given = folder_words(__doc__).parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    films = list_films(given.films)
    begin = time.perf_counter()
    model = PlainModel(given.model)
    for film in films:
        segment(model, film, given.out)
    print(json.dumps({"films_per_second": len(films) / (time.perf_counter() - begin)}))


if __name__ == "__main__":
    main()
