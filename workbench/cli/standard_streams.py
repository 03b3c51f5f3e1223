"""The three standard streams of a command, as a script may hand them over: closed, full, left by their reader.

Whatever they are, the command ends in a sentence and an exit code. What cannot be said on stderr is not said.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modal_app.contract.errors import ContractError, ErrorCode

_PATIENCE_S = 1.0  # with an input that does not come, before it is said what is waited for
_LEFT = 128 + 13  # as a program that is killed by SIGPIPE


class OutputLostError(Exception):
    """Nothing more can be printed: whoever read it has left, or it cannot be kept. What was begun must be ended."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(f"what it prints cannot be written: {reason.strerror}")
        self.left = reason.errno == errno.EPIPE


@contextmanager
def standard_streams() -> Iterator[None]:
    """Watch over a command's streams while it runs; ends with SystemExit when its output is lost."""
    for descriptor in (0, 1, 2):  # one that is closed would be the next file's, or the next child's
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), errors="backslashreplace")
    if sys.stdout is None:
        sys.stderr.write("error: stdout is closed: send it somewhere, for instance with >/dev/null\n")
        raise SystemExit(2)
    sys.stderr = _replaced(sys.stderr, _Silent)
    sys.stdout = _replaced(sys.stdout, _Watched)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputLostError as lost:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still held is dropped at the interpreter's end
        if not lost.left:
            sys.stderr.write(f"error: {lost}\n")
        raise SystemExit(_LEFT if lost.left else 1) from None


def print_bytes(data: bytes) -> None:
    """Bytes to stdout as they are."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputLostError(error) from None


def read_input(what: str) -> str:
    """All of stdin as text; `what` it is to be is told when it does not come. Raises ContractError."""
    return decoded(read_bytes(what), f"{what} on stdin")


def read_bytes(what: str) -> bytes:
    """All of stdin; `what` it is to be is told when it does not come. Raises ContractError when it is closed."""
    if sys.stdin is None:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"{what}: stdin is closed")
    if not select.select([sys.stdin], [], [], 0 if sys.stdin.isatty() else _PATIENCE_S)[0]:
        sys.stderr.write(f"waiting for {what} on stdin; Ctrl-D ends it\n")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"{what}: stdin cannot be read: {error.strerror}") from None


def decoded(data: bytes, what: str) -> str:
    """UTF-8 as text; raises ContractError for what is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}"
        raise ContractError(ErrorCode.INVALID_REQUEST, message) from None


class _Watched(io.TextIOWrapper):
    """Raises OutputLostError where a stream would raise an OSError of any kind."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputLostError(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputLostError(error) from None


class _Silent(io.TextIOWrapper):
    """Drops what cannot be written."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            pass


def _replaced(stream: Any, kind: type[io.TextIOWrapper]) -> io.TextIOWrapper:
    """The same stream by another class; a character that its encoding lacks is written by its number."""
    try:
        descriptor, encoding, by_line = stream.fileno(), stream.encoding, stream.line_buffering
    except (AttributeError, io.UnsupportedOperation):  # no file is behind it: a test's, or a notebook's
        return stream  # type: ignore[no-any-return]
    stream.flush()
    buffered = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    return kind(buffered, encoding=encoding, errors="backslashreplace", line_buffering=by_line)
