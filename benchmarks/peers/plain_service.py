"""What one would write in an afternoon: FastAPI, uvicorn, a film at a time.  python plain_service.py BUNDLE PORT"""

from __future__ import annotations

import io
import sys

import uvicorn
from fastapi import FastAPI, Request, Response
from film_files import read_square, write_mask

from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.segmentation.inference.predictor import BatchPredictor


def main() -> None:
    predictor = BatchPredictor(load_bundle(sys.argv[1]))
    size, infection = predictor.spec.input_size, predictor.spec.infection
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> str:
        return "ready"

    @app.post("/v1/segment")
    async def segment(request: Request) -> Response:
        shape, square_SS = read_square(io.BytesIO(await request.body()), size)
        out = io.BytesIO()
        write_mask(predictor.predict(square_SS[None])[0] == infection, shape, out)
        return Response(out.getvalue(), media_type="image/png")

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")


if __name__ == "__main__":
    main()
