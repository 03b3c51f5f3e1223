"""A run's rows in the form that the page draws: small JSON arrays, in messages of bounded size.

A row is `[number, channel, kind, at_ms, text, lines in its body, whether it was withdrawn]`.
"""

import json
from collections.abc import Sequence
from typing import Any

from workbench.runs.lines import Row

MESSAGE_BYTES = 4 * 1024 * 1024


def drawn(number: int, row: Row) -> list[Any]:
    """A row as the page gets it."""
    lines = row.body.count("\n") + 1 if row.body else 0
    return [number, row.channel, row.kind, row.at, row.text, lines, int(row.withdrawn)]


def packed(numbers: Sequence[int], rows: Sequence[Row], *, newest: bool = False) -> bytes:
    """Rows as one JSON array of about MESSAGE_BYTES at most, with at least one row: the first ones, or the newest."""
    pairs = list(zip(numbers, rows, strict=True))
    texts: list[str] = []
    size = 0
    for number, row in reversed(pairs) if newest else pairs:
        text = json.dumps(drawn(number, row), ensure_ascii=False, separators=(",", ":"))
        size += len(text)
        if texts and size > MESSAGE_BYTES:
            break
        texts.append(text)
    if newest:
        texts.reverse()
    return f"[{','.join(texts)}]".encode(errors="replace")
