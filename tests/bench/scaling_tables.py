"""Tables of rates and of simulated runs, and their picture, for a document."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scaling_model import BLOCK, Outcome, Rates

BEND = 0.9
BEGIN, END = "<!-- tests/bench/scaling.py: begin -->", "<!-- tests/bench/scaling.py: end -->"


def rates_table(rates: Rates) -> str:
    blocks = np.asarray(rates.predict_blocks)
    one = rates.load_film + blocks.mean() + rates.outline_film + rates.write_block / BLOCK["cores"]
    lines = [
        ("list and number inputs of a manifest", f"{1 / rates.listing_input:,.0f} inputs/s"),
        ("read a film, alone", f"{1000 * rates.read_object:.2f} ms for {rates.film_bytes / 1e3:,.0f} kB"),
        ("read one large object", f"{1 / rates.read_megabyte:,.0f} MB/s"),
        ("read, decode, standardise", f"{1 / rates.load_film:,.1f} films/s a core"),
        ("predict, all cores busy", f"{1 / blocks.mean():,.1f} films/s a core"),
        (
            "spread of blocks (standard deviation over mean)",
            f"{blocks.std() / blocks.mean():.3f}, {len(blocks)} blocks",
        ),
        ("mask, shares, row", f"{1 / rates.outline_film:,.0f} films/s a core"),
        (
            "write a block of 64 rows and its record",
            f"{1000 * rates.write_block:.1f} ms, {rates.row_bytes:,.0f} B a film",
        ),
        ("Ray Data, one actor pool and one task, doing nothing", f"{1 / rates.dispatch_block:,.0f} blocks/s"),
        ("the driver's own processor time in that", f"{1000 * rates.driver_block:.1f} ms a block"),
        ("end: check, report, summary", f"{rates.finish:.1f} s, and {1000 * rates.finish_block:.2f} ms a block"),
        ("`covseg-ray segment`, all but the films", f"{rates.start:.0f} s"),
        ("`covseg-ray segment`, the films", f"{rates.run_films_per_second:.1f} films/s ({rates.run_films} films)"),
        (f"the stages above put together, {rates.cores} cores", f"{rates.cores / one:.1f} films/s"),
        *(
            (
                f"training step, batch of {share}",
                f"{statistics.mean(rates.steps[share]):.2f} s, "
                f"{int(share) / statistics.mean(rates.steps[share]):.2f} films/s",
            )
            for share in rates.steps
        ),
        ("gradients summed in a step", f"{rates.gradient_bytes / 1e6:.1f} MB"),
        ("validation", f"{1 / rates.validate_film:.1f} films/s; metrics of 932 films {rates.score:.3f} s"),
        ("checkpoint", f"{rates.save:.2f} s to make, {rates.checkpoint_bytes / 1e6:.0f} MB"),
        ("`covseg-ray train`, all but the epochs", f"{rates.train_start:.0f} s"),
    ]
    return table(("stage", f"measured ({rates.cores} cores)"), lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def runs_table(found: Sequence[Outcome]) -> str:
    head = ("nodes", "films/s", "efficiency", "node-seconds per 1,000 films", "limit", "largest loss")
    return table(head, [_run_row(each) for each in found])


def _run_row(run: Outcome) -> tuple[str, ...]:
    lost = max(run.losses, key=lambda name: run.losses[name])
    cost = f"{run.node_seconds_per_1000:,.1f}"
    loss = f"{lost}, {run.losses[lost]:.0%}"
    return str(run.nodes), f"{run.films_per_second:,.1f}", f"{run.efficiency:.2f}", cost, run.limit, loss


def bend(found: Sequence[Outcome]) -> str:
    """Where it stops being linear, in a sentence."""
    for run in found:
        if run.efficiency < BEND:
            lost = max(run.losses, key=lambda name: run.losses[name])
            return f"Below {BEND:.0%} of linear from {run.nodes} nodes on: {lost}."
    return f"At least {BEND:.0%} of linear up to {found[-1].nodes} nodes."


def put_between(path: Path, text: str) -> None:
    """Replace what stands between the marks of the document."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: the marks are missing; write {BEGIN} and {END} where the tables belong")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def draw(path: Path, scenarios: Mapping[str, Sequence[Outcome]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=80)
    for name, found in scenarios.items():
        axes.plot([run.nodes for run in found], [run.efficiency for run in found], marker="o", label=name)
    axes.set_xscale("log", base=2)
    nodes = sorted({run.nodes for found in scenarios.values() for run in found})
    axes.set_xticks(nodes, [str(each) for each in nodes])
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("nodes")
    axes.set_ylabel("efficiency against one node")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
