"""Tables on the screen: one look, folded on a terminal, one line a row in a file or a pipe."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

UNFOLDED = 100_000  # columns of a file or a pipe


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Collection[str] = (), show_header: bool = True
) -> Table:
    """Rows below the names of their columns; those in ``right`` are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", show_header=show_header)
    for column in columns:
        made.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def show(*parts: str | Table, to_stderr: bool = False) -> None:
    """Print lines and tables, one below the other."""
    from rich.console import Console

    console = Console(stderr=to_stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = UNFOLDED
    with console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    lines = captured.get().splitlines()
    typer.echo("\n".join(line.rstrip() for line in lines), err=to_stderr)
