"""The same by LitServe, with its batching and a worker for each core.  python litserve_service.py BUNDLE PORT"""

import os
import sys
from io import BytesIO
from typing import Any  # annotations are read by LitServe: none of them may be a string

import litserve
from fastapi import Request, Response
from film_files import read_square, write_mask

from covseg_ray.engine.bundle_io import load_bundle
from covseg_ray.segmentation.inference.predictor import BatchPredictor


class Segment(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.predictor = BatchPredictor(load_bundle(sys.argv[1]), threads=1)

    def decode_request(self, request: Request) -> Any:
        return read_square(request["film"].file, self.predictor.spec.input_size)

    def predict(self, given: Any) -> Any:
        shape, square = given
        return shape, self.predictor.predict(square[None])[0] == self.predictor.spec.infection

    def encode_response(self, found: Any) -> Response:
        shape, mask = found
        out = BytesIO()
        write_mask(mask, shape, out)
        return Response(out.getvalue(), media_type="image/png")


def main() -> None:
    api = Segment(api_path="/v1/segment")
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=os.cpu_count() or 1, healthcheck_path="/readyz"
    )
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main()
