"""What one would write in an afternoon: FastAPI, uvicorn, a film at a time.  python plain_service.py BUNDLE PORT"""

from __future__ import annotations

import io
import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image

from covseg_ray.engine.bundles import load_bundle
from covseg_ray.segmentation.predictor import Predictor


def main() -> None:
    predictor = Predictor(load_bundle(sys.argv[1]))
    size, infection = predictor.spec.input_size, predictor.spec.infection
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/v1/segment")
    async def segment(request: Request) -> Response:
        film = Image.open(io.BytesIO(await request.body())).convert("L")
        square = np.asarray(film.resize((size, size), Image.Resampling.BILINEAR))
        mask = Image.fromarray(predictor.predict(square[None])[0] == infection).resize(film.size)
        out = io.BytesIO()
        mask.save(out, "PNG")
        return Response(out.getvalue(), media_type="image/png")

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")


if __name__ == "__main__":
    main()
