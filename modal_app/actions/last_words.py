"""Why a program failed, in its own words: its last exception or error, found in the end of what it wrote to stderr."""

import re

from modal_app.sandboxes.guest_text import one_line

TAIL_BYTES = 16 * 1024
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_TRACEBACK = re.compile(r"[ |+]*(?:Exception Group )?Traceback \(most recent call last\):")
_MARGIN = " |+"  # what a group of exceptions draws before the lines of its members
# `ValueError: no`, `module.Error`, `Uncaught TypeError: no`, `fatal: not a repository`, `error: unknown switch`
_ERROR = re.compile(r"(?:Uncaught )?[\w.$]*(?:Error|Exception|Interrupt|ExceptionGroup)(?:: .*)?$|(?:fatal|error): .*$")
_NO_REASON = re.compile(r"Node\.js v[\d.]+$")  # what Node.js adds below an error


class Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._held += data[-TAIL_BYTES:]
        del self._held[:-TAIL_BYTES]

    def __str__(self) -> str:
        return self._held.decode(errors="replace")


def last_words(stderr: str) -> str:
    """The last error that a program told on stderr, on one line of about 200 characters; "" when it said nothing.

    When it has said something else after that error, its last line follows. What has the form of no error is told by
    its last line alone.
    """
    lines = _told(stderr)
    words = one_line(_line(lines))
    last = lines[-1] if lines else ""
    if last.strip(_MARGIN) != _line(lines) and last == last.lstrip(_MARGIN):
        words += f"; its last line: {one_line(last)}"
    return words


def reason_line(stderr: str) -> str:
    """The whole line that `last_words` begins with, without the margin of a group of exceptions."""
    return _line(_told(stderr))


def _told(stderr: str) -> list[str]:
    lines = [line.rstrip() for line in _COLOURS.sub("", stderr).splitlines()]
    return [line for line in lines if line and not _NO_REASON.match(line)]


def _line(lines: list[str]) -> str:
    found = max(_exception(lines), _error(lines))
    if found >= 0:
        return lines[found].strip(_MARGIN)
    return lines[-1].strip() if lines else ""


def _exception(lines: list[str]) -> int:
    """The index of the line that names the exception of the last traceback; -1 when there is none."""
    begin = max((at for at, line in enumerate(lines) if _TRACEBACK.match(line)), default=None)
    if begin is None:
        return -1
    margin = len(lines[begin]) - len(lines[begin].lstrip(_MARGIN))
    for at in range(begin + 1, len(lines)):
        text = lines[at][margin:]
        if text and not text.startswith(" "):
            return at
    return -1


def _error(lines: list[str]) -> int:
    return max((at for at, line in enumerate(lines) if _ERROR.match(line)), default=-1)
