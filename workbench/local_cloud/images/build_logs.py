"""The log of one build: bounded, without the values of its secrets, and told to whoever follows."""

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass

MAX_CHARS = 2_000_000
_SHORTEST_HIDDEN = 6  # a shorter value would blot out ordinary words, and is no secret


@dataclass(frozen=True)
class Line:
    """One line with its newline; `fd` is the protocol's FileDescriptor, `at_ns` Unix nanoseconds."""

    text: str
    fd: int
    at_ns: int


class BuildLog:
    """Lines in their order; the index of a line never changes."""

    def __init__(self, *, hidden: Iterable[str] = ()) -> None:
        self.lines: list[Line] = []
        self._hidden = [value for value in hidden if len(value) >= _SHORTEST_HIDDEN]
        self._size = 0
        self._news = asyncio.Event()

    def add(self, text: str, fd: int) -> None:
        """Append a line; when the log is full, the last one says so."""
        if self._size > MAX_CHARS:
            return
        text = self.redacted(text)
        self._size += len(text)
        if self._size > MAX_CHARS:
            text = "further output is not kept\n"
        self.lines.append(Line(text, fd, time.time_ns()))
        self.close()

    def redacted(self, text: str) -> str:
        """A text without the values of the secrets."""
        for value in self._hidden:
            text = text.replace(value, "***")
        return text

    def close(self) -> None:
        """Wake everybody who waits."""
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self, timeout_s: float) -> bool:
        """Wait for another line or the end; False when neither came in time."""
        try:
            await asyncio.wait_for(self._news.wait(), max(timeout_s, 0))
        except TimeoutError:
            return False
        return True

    def to_json(self) -> str:
        """The log as it is kept."""
        return json.dumps([astuple(line) for line in self.lines])

    @classmethod
    def from_json(cls, text: str) -> "BuildLog":
        """A log that was kept."""
        log = cls()
        log.lines = [Line(*line) for line in json.loads(text or "[]")]
        return log
