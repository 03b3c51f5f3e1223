"""The log of one image build: bounded, without the values of its secrets; readers can follow it while it grows."""

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass

MAX_CHARS = 2_000_000
_SHORTEST_HIDDEN = 6  # characters; hiding shorter values would hide ordinary words


@dataclass(frozen=True)
class Line:
    """One line with its line feed; `fd` is the protocol's FileDescriptor, `at_ns` Unix time in nanoseconds."""

    text: str
    fd: int
    at_ns: int


class BuildLog:
    """The lines of a build in order; the index of a line never changes."""

    def __init__(self, *, hidden: Iterable[str] = ()) -> None:
        """`hidden` are the values of secrets, which are replaced by `***`, also each line of a longer one."""
        self.lines: list[Line] = []
        texts = {text.strip() for value in hidden for text in (value, *value.splitlines())}
        self._hidden = sorted((text for text in texts if len(text) >= _SHORTEST_HIDDEN), key=len, reverse=True)
        self._size = 0
        self._news = asyncio.Event()

    def add(self, text: str, fd: int) -> None:
        """Append a line. A log that is full gets one last line that says so."""
        if self._size > MAX_CHARS:
            return
        text = self.redacted(text)
        self._size += len(text)
        if self._size > MAX_CHARS:
            text = f"further output is not kept: a build's log has at most {MAX_CHARS} characters\n"
        self.lines.append(Line(text, fd, time.time_ns()))
        self.close()

    def redacted(self, text: str) -> str:
        """Return a text without the values of the secrets."""
        for value in self._hidden:
            text = text.replace(value, "***")
        return text

    def close(self) -> None:
        """Wake the readers that wait in `changed`; to be called at the end of the build, too."""
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self, timeout_s: float) -> bool:
        """Return True at the next line or the end of the build, False if neither came within `timeout_s` seconds."""
        try:
            await asyncio.wait_for(self._news.wait(), max(timeout_s, 0))
        except TimeoutError:
            return False
        return True

    def to_json(self) -> str:
        """Return the log as it is stored."""
        return json.dumps([astuple(line) for line in self.lines])

    @classmethod
    def from_json(cls, text: str) -> "BuildLog":
        """Return a log that was stored."""
        log = cls()
        log.lines = [Line(*line) for line in json.loads(text or "[]")]
        return log
