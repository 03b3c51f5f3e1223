"""Makes lines of what the channels of a run say. Pure; whatever shows output as lines takes them from here.

A line belongs to its channel until it ends: what another channel says meanwhile is another line. Lines are ordered by
their beginnings. A line ends with a line feed, with CR LF, or with the run; where its text was cut into events makes no
difference. What is longer than `widest` goes on in a further row, so that every row is of bounded size.
"""

from collections.abc import Callable
from dataclasses import dataclass

from workbench.text.plain_text import printable

WIDEST = 8192  # characters


@dataclass(slots=True, eq=False)
class Row:
    """A line, or a part of a very long one; its `text` grows while it is `open`.

    `kind` is "" for a line's beginning, "more" for a further part, or a word for what is no plain output. `at` is in
    milliseconds since the run was accepted. `body` is a longer text that belongs to the line. `block` names the part of
    a model's answer that it is from.
    """

    channel: str
    kind: str
    at: int
    text: str
    body: str = ""
    block: str | None = None
    open: bool = False
    withdrawn: bool = False


class Assembler:
    """Calls `take` with every row when it begins. `clean` is applied to all text, and must not change its length.

    `take_whole`, if it is given, is called with a channel, lines that are whole, and their time, in the place of `take`
    with each of them; when it returns False, `take` is called after all.
    """

    def __init__(
        self,
        take: Callable[[Row], None],
        clean: Callable[[str], str] = printable,
        *,
        widest: int = WIDEST,
        take_whole: Callable[[str, list[str], int], bool] = lambda *_: False,
    ) -> None:
        self._take = take
        self._take_whole = take_whole
        self._clean = clean
        self._widest = widest
        self._open: dict[str, Row] = {}
        self._returned: set[str] = set()  # channels whose last character is a CR, which may be half of a line's end

    def say(self, channel: str, text: str, at: int, block: str | None = None) -> None:
        """Take in what a channel says next. Another `block` than its last begins another line."""
        row = self._open.get(channel)
        if row is not None and row.block != block:
            self.end(channel)
            row = None
        if channel in self._returned:
            self._returned.discard(channel)
            text = "\r" + text
        if "\r" in text:
            text = text.replace("\r\n", "\n")
            if text.endswith("\r"):
                self._returned.add(channel)
                text = text[:-1]
        *whole, rest = self._clean(text).split("\n")
        if whole and row is not None:
            self._grow(channel, row, whole.pop(0), at, block).open = False
            del self._open[channel]
            row = None
        if whole and block is None and max(map(len, whole)) <= self._widest and self._take_whole(channel, whole, at):
            whole = []
        for line in whole:
            if len(line) <= self._widest:
                self._take(Row(channel, "", at, line, "", block))
            else:
                self._grow(channel, None, line, at, block).open = False
        if rest:
            self._open[channel] = self._grow(channel, row, rest, at, block)

    def tell(self, channel: str, kind: str, text: str, at: int, body: str = "") -> None:
        """Take in a line that is there at once and whole; it ends the channel's open line."""
        self.end(channel)
        line = self._clean(text.replace("\r\n", "\n")).replace("\n", " ")
        self._take(Row(channel, kind, at, line[: self._widest], self._clean(body.replace("\r\n", "\n"))))

    def end(self, channel: str) -> None:
        """End a channel's open line, if there is one."""
        self._returned.discard(channel)
        if (row := self._open.pop(channel, None)) is not None:
            row.open = False

    def end_all(self) -> None:
        """End every open line."""
        for channel in [*self._open]:
            self.end(channel)

    def _grow(self, channel: str, row: Row | None, text: str, at: int, block: str | None) -> Row:
        """Add text without a line end to a row; returns the row that the line goes on in, which is open."""
        kind = ""
        while True:
            if row is None:
                row = Row(channel, kind, at, "", "", block, open=True)
                self._take(row)
            room = self._widest - len(row.text)
            row.text += text[:room]
            text = text[room:]
            if not text:
                return row
            row.open = False
            row, kind = None, "more"
