"""Prints what the channels of a run say on one terminal, so that no line is broken up by another channel's.

A line is printed when it ends. On a terminal, the beginning of one that has not ended is shown before, and of the
model's words everywhere. When another line must be printed meanwhile, that beginning is taken away or, where this is
not possible, left with an ellipsis; the line then stands whole further down.
"""

import shutil
import sys
import unicodedata

import typer

from modal_app.contract.events import StreamEvent
from workbench.runs.claude_messages import tell
from workbench.runs.lines import Assembler, Row

_INDENT = f"{'':>12}│ "
_WIDEST = 1024 * 1024  # characters, then a line is broken
_ERASE = "\r\x1b[K"


class TerminalLines:
    """The output of one run on stdout, each line indented."""

    def __init__(self) -> None:
        self._waiting: list[Row] = []  # lines that have not been printed whole, in the order of their beginnings
        self._lines = Assembler(self._waiting.append, widest=_WIDEST)
        self._begun: Row | None = None  # whose beginning stands on the terminal's last line
        self._length = 0  # of what is printed of it

    def take(self, event: StreamEvent) -> None:
        """Print what an event says, as far as lines end with it, and the beginning of its last one."""
        tell(self._lines, event)
        self._print_ended()
        for row in reversed(self._waiting):
            if row.channel == event.channel or row is self._begun:
                self._begin(row)
        sys.stdout.flush()

    def between(self, text: str) -> None:
        """Print a line that is not the run's output."""
        begun = self._begun
        self._take_away()
        typer.echo(text)
        if begun is not None:
            self._begin(begun)
            sys.stdout.flush()

    def rest(self, channel: str | None = None) -> None:
        """End the lines that have not ended, of one channel or of all, and print them."""
        if channel is None:
            self._lines.end_all()
        else:
            self._lines.end(channel)
        self._print_ended()
        sys.stdout.flush()

    def _print_ended(self) -> None:
        begun = self._begun
        for row in self._waiting:
            if not row.open:
                self._print(row)
        self._waiting[:] = [row for row in self._waiting if row.open]
        if begun is not None and begun.open:
            self._begin(begun)

    def _print(self, row: Row) -> None:
        if row is self._begun:
            sys.stdout.write(row.text[self._length :] + "\n")
            self._begun = None
            return
        self._take_away()
        sys.stdout.write(f"{_INDENT}{row.text}\n")

    def _begin(self, row: Row) -> None:
        """Show what there is of a line that has not ended, unless another one's beginning stands there."""
        if self._begun is None and (row.channel == "claude" or sys.stdout.isatty()):
            sys.stdout.write(_INDENT)
            self._begun, self._length = row, 0
        if self._begun is row:
            sys.stdout.write(row.text[self._length :])
            self._length = len(row.text)

    def _take_away(self) -> None:
        if self._begun is None:
            return
        sys.stdout.write(_ERASE if _on_one_line(self._begun.text[: self._length]) else "…\n")
        self._begun = None


def _on_one_line(text: str) -> bool:
    """Whether what was printed of a line stands on a single line of a terminal, and so can be taken away."""
    if not sys.stdout.isatty() or "\t" in text:
        return False
    cells = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
    return len(_INDENT) + cells < shutil.get_terminal_size().columns
