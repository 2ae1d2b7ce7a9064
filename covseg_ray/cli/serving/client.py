"""``covseg-ray client``: segment films with a running service."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from covseg_ray.cli.options import Json, RejectUnlike, named
from covseg_ray.errors import EXIT_REJECTS, CovsegError, StorageError, UsageError
from covseg_ray.radiograph.formats import FORMAT_NAMES

CHECK_SECONDS = 10.0  # until a wrong --url is reported


def client(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help=f"{FORMAT_NAMES}.")],
    url: Annotated[str, typer.Option("--url", help="Use the service at this address.")] = "http://127.0.0.1:8000",
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Write results to this folder; print only without it.")
    ] = None,
    write: Annotated[
        str, typer.Option("--write", metavar="KIND,...", help="Write these results: masks, overlays, dicom-seg.")
    ] = "masks",
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Use this model of the service.")] = None,
    reject_unlike: RejectUnlike = False,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, max=64, help="Send this many films at a time.")
    ] = 4,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="Read the API key from this file; COVSEG_API_KEY when not given.")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=1, metavar="SECONDS", help="Limit the time for one film, retries included."),
    ] = 120,
    as_json: Json = False,
) -> None:
    """Segment films with a running service, and print the infected share of each."""
    from covseg_ray.cli.progress import ClientProgress
    from covseg_ray.cli.serving.client_run import ClientRequest, run
    from covseg_ray.service.client import Client

    request = ClientRequest(files, out, named(write), model, concurrency, timeout, reject_unlike)
    with Client(url, _key(key_file), timeout=timeout) as service, ClientProgress(len(files)) as progress:
        service.models(timeout=min(CHECK_SECONDS, timeout))  # report a wrong URL or key before any film is read
        rows, stopped = run(service, request, progress)
    typer.echo(json.dumps(_document(rows)) if as_json else _table(rows))
    if stopped:
        raise StorageError(f"stopped after several failures in a row; the last: {stopped}")
    statuses = {row["status"] for row in rows}
    if "failed" in statuses:
        raise typer.Exit(CovsegError.exit_code)
    if "rejected" in statuses:
        raise typer.Exit(EXIT_REJECTS)


def _key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"  # a decoding error would quote the key
        raise UsageError(f"{file}: cannot be read ({reason}); give --key-file a file with only the key") from None
    if not key:
        raise UsageError(f"{file}: empty; give --key-file a file with only the key")
    return key


def _document(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = Counter(row["status"] for row in rows)
    reasons = Counter(row["reason"] for row in rows if row["status"] == "rejected")
    return {**{status: counts[status] for status in _STATUSES}, "reasons": dict(reasons), "films": list(rows)}


_STATUSES = {"ok": "segmented", "rejected": "rejected", "failed": "failed", "unsent": "not sent"}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    width = max(4, *(len(row["file"]) for row in rows))
    with_iou = any(row.get("expected_iou") is not None for row in rows)
    header = f"{'file':<{width}}  infection" + ("  expected IoU" if with_iou else "")
    lines = [header, *(f"{row['file']:<{width}}  {_result(row)}" for row in rows)]
    counts = Counter(row["status"] for row in rows)
    shown = [status for status in _STATUSES if counts[status] or status in ("ok", "rejected")]
    totals = ", ".join(f"{counts[status]:,} {_STATUSES[status]}" for status in shown)
    return "\n".join([*lines, f"films: {totals}, {len(rows):,} in all"])


def _result(row: Mapping[str, Any]) -> str:
    if row["status"] == "ok":
        expected_iou = "" if row["expected_iou"] is None else f"  {row['expected_iou']:12.2f}"
        detail = f"  {row['detail']}" if row["detail"] else ""
        return f"{100 * row['infection_fraction']:7.2f} %{expected_iou}{detail}"
    if row["status"] == "rejected":
        return f"rejected: {row['reason']}, {row['detail']}"
    return f"failed: {row['detail']}" if row["status"] == "failed" else "not sent"
