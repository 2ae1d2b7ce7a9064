"""``covseg-ray serve``: bundles behind an HTTP endpoint."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from covseg_ray.cli.options import Address, AllowOpen, Json, say


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="[NAME=]BUNDLE", help="Path or s3:// URI of a model bundle; may be repeated."),
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="127.0.0.1 when not given.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="8000 when not given.")] = None,
    config: Annotated[
        str | None, typer.Option("-c", "--config", metavar="SERVE.yaml", help="A Ray Serve file, as jobs/serve.yaml.")
    ] = None,
    keys_file: Annotated[
        str | None, typer.Option("--keys-file", metavar="FILE", help="API keys, one a line; needed beyond loopback.")
    ] = None,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Serve models over HTTP, with a page to drop films on. SIGHUP takes up changed bundles and settings."""
    from covseg_ray.config import serve as serving

    def read() -> serving.Endpoint:
        return serving.endpoint(config, models or [], host, port, keys_file)

    wanted = read()
    from covseg_ray.engine.serving import command as serve_command

    output = sys.stdout  # Ray's session sends what is printed in it to standard error

    def ready(served: serving.Endpoint) -> None:
        if as_json:
            typer.echo(json.dumps({"url": served.url, "models": served.serving.models}), file=output)
        say(f"serving {served} at {served.url}; Ctrl-C ends it")

    serve_command.run(wanted, read, ready, say, address, allow_open)
