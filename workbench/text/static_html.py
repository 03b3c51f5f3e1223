"""Tables and texts in static HTML and plain text, which notebooks show without a kernel. All cells are escaped."""

import html
import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

Rows = Sequence[Sequence[str]]
_WIDEST = 10_000  # characters: nothing is wrapped or cut here


def table(heading: Sequence[str], rows: Rows) -> str:
    """An HTML table of escaped cells; without a header row when `heading` is empty."""
    head = "".join(f"<th style='text-align:left'>{html.escape(cell)}</th>" for cell in heading)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def preformatted(text: str, style: str = "margin:0") -> str:
    """Escaped text that keeps its lines and columns; a page that is made of a notebook may have another font for it."""
    return f'<pre style="font-family:monospace;{style}">{html.escape(text)}</pre>'


def columns(rows: Rows) -> list[str]:
    """Rows as lines of aligned columns, however wide their characters are."""
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        grid.add_row(*map(Text, row))
    # In a kernel, rich shows what is printed as the output of the cell, and gives nothing to `file`.
    console = Console(file=io.StringIO(), width=_WIDEST, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        console.print(grid, no_wrap=True)
    return [line.rstrip() for line in captured.get().splitlines()]


def facts_and_table(title: str, facts: Rows, heading: Sequence[str], rows: Rows) -> dict[str, str]:
    """A MIME bundle (text and HTML) for a notebook: a title, facts as names with values, and a table below them."""
    lines = [title, *(f"  {line}" for line in columns(facts))]
    below = table(heading, rows) if rows else ""
    return {
        "text/plain": "\n".join([*lines, *(columns([heading, *rows]) if rows else [])]),
        "text/html": f"<div><strong>{html.escape(title)}</strong>{table((), facts)}{below}</div>",
    }
