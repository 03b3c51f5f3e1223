"""Tables in static HTML and plain text: what notebooks show without a kernel. Whatever goes in comes out as text."""

import html
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def table(heading: Sequence[str], rows: Rows) -> str:
    """An HTML table; without a head when the heading is empty."""
    head = "".join(f"<th style='text-align:left'>{html.escape(cell)}</th>" for cell in heading)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def columns(rows: Rows) -> list[str]:
    """Rows as lines of aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def facts_and_table(title: str, facts: Rows, heading: Sequence[str], rows: Rows) -> dict[str, str]:
    """A title, names with values, and a table below them, for a notebook."""
    lines = [title, *(f"  {line}" for line in columns(facts))]
    below = table(heading, rows) if rows else ""
    return {
        "text/plain": "\n".join([*lines, *(columns([heading, *rows]) if rows else [])]),
        "text/html": f"<div><strong>{html.escape(title)}</strong>{table((), facts)}{below}</div>",
    }
