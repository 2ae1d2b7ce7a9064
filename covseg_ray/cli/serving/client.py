"""``covseg-ray client``: films to a running service, and their outlines back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from covseg_ray.cli.options import Json, named
from covseg_ray.errors import EXIT_REJECTS, CovsegError, StorageError, UsageError

ASK_SECONDS = 10.0  # that a person waits to be told of a wrong --url


def client(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="PNG, JPEG, TIFF or DICOM.")],
    url: Annotated[str, typer.Option("--url", help="Where the service is.")] = "http://127.0.0.1:8000",
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Folder for the results; only numbers without it.")
    ] = None,
    write: Annotated[
        str, typer.Option("--write", metavar="KIND,...", help="With --out: masks, overlays, dicom-seg.")
    ] = "masks",
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Which of the service's models.")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=64, help="Films under way at a time.")] = 4,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="File with the key; without it COVSEG_API_KEY counts.")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, metavar="SECONDS", help="For one film, all its retries included.")
    ] = 120,
    as_json: Json = False,
) -> None:
    """Outline films at a running service, and print how much of each is infected."""
    from covseg_ray.cli.progress import ClientProgress
    from covseg_ray.cli.serving.client_run import KINDS, Job, run
    from covseg_ray.service.client import Client

    kinds = tuple(named(write))
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"--write {unknown[0]!r}: not a kind of result; choose from {', '.join(KINDS)}")
    job = Job(files, out, kinds if out else (), model, concurrency, timeout)
    job.check()
    with Client(url, _key(key_file), timeout=timeout) as service, ClientProgress(len(files)) as progress:
        service.models(timeout=min(ASK_SECONDS, timeout))  # a wrong URL or key is told before any film is read
        rows, stopped = run(service, job, progress)
    typer.echo(json.dumps(_document(rows)) if as_json else _table(rows))
    if stopped:
        raise StorageError(f"stopped, since one film after the other failed; the last: {stopped}")
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
        why = error.strerror if isinstance(error, OSError) else "not text"  # an error of decoding would quote the key
        raise UsageError(f"{file}: cannot be read ({why}); --key-file wants a file with the key alone") from None
    if not key:
        raise UsageError(f"{file}: empty; --key-file wants a file with the key alone")
    return key


def _document(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = Counter(row["status"] for row in rows)
    reasons = Counter(row["reason"] for row in rows if row["status"] == "rejected")
    return {**{status: counts[status] for status in _STATUSES}, "reasons": dict(reasons), "films": list(rows)}


_STATUSES = ("ok", "rejected", "failed", "unsent")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    width = max(4, *(len(row["file"]) for row in rows))
    lines = [f"{'file':<{width}}  infection", *(f"{row['file']:<{width}}  {_result(row)}" for row in rows)]
    counts = Counter(row["status"] for row in rows)
    told = [f"{counts['ok']:,} outlined", f"{counts['rejected']:,} rejected"]
    told += [f"{counts[status]:,} {word}" for status, word in _WORDS.items() if counts[status]]
    return "\n".join([*lines, f"films: {', '.join(told)}, {len(rows):,} in all"])


_WORDS = {"failed": "failed", "unsent": "not sent"}


def _result(row: Mapping[str, Any]) -> str:
    if row["status"] == "ok":
        return f"{100 * row['infection_fraction']:7.2f} %" + (f"  {row['detail']}" if row["detail"] else "")
    if row["status"] == "rejected":
        return f"rejected: {row['reason']}, {row['detail']}"
    return f"failed: {row['detail']}" if row["status"] == "failed" else "not sent"
