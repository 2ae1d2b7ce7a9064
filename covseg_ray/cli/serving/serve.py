"""``covseg-ray serve``: bundles behind an HTTP endpoint."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from covseg_ray.cli.options import Address, AllowOpen, Json, say

if TYPE_CHECKING:
    from covseg_ray.config.serve import Endpoint


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="[NAME=]BUNDLE",
            help="Serve this bundle, a path or s3:// URI; covid-qu-ex when not given; repeatable.",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Listen on this address; 127.0.0.1 when not given.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Listen on this port; 8000 when not given.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("-c", "--config", metavar="SERVE.yaml", help="Read a Ray Serve file.")
    ] = None,
    keys_file: Annotated[
        str | None,
        typer.Option("--keys-file", metavar="FILE", help="Read API keys, one per line; required beyond loopback."),
    ] = None,
    address: Address = None,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Serve models over HTTP, with a web page. SIGHUP reloads bundles and configuration."""
    from covseg_ray.config.serve import read_endpoint

    def read() -> Endpoint:
        return read_endpoint(config, models or [], host, port, keys_file)

    endpoint = read()
    from covseg_ray.engine.serving import command as serve_command

    output = sys.stdout  # Ray's session redirects what is printed in it to standard error

    def on_ready(served: Endpoint) -> None:
        if as_json:
            typer.echo(json.dumps({"url": served.url, "models": served.config.models}), file=output)
        say(f"serving {served} at {served.url}; stop with Ctrl-C")

    serve_command.run(endpoint, read, on_ready, say, address, allow_open)
