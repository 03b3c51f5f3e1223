"""Handles standard streams that a script has closed, whose disk is full, or whose reader has gone away.

In every such case the command still ends with one sentence and an exit code. If stderr cannot be written, the sentence
is dropped.
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

_PATIENCE_S = 1.0  # of waiting for stdin before a message says that the command is waiting
_LEFT = 128 + 13  # the exit code of a program that SIGPIPE has killed


class OutputLostError(Exception):
    """Nothing more can be printed: stdout's reader has gone, or its disk is full. The command must clean up and end."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(f"the output cannot be written to stdout: {reason.strerror}")
        self.left = reason.errno == errno.EPIPE


@contextmanager
def standard_streams() -> Iterator[None]:
    """Guard a command's standard streams while it runs; raises SystemExit when its output is lost."""
    for descriptor in (0, 1, 2):  # a closed one would be reused by the next file or child process
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered is then dropped when the interpreter ends
        if not lost.left:
            sys.stderr.write(f"error: {lost}\n")
        raise SystemExit(_LEFT if lost.left else 1) from None


def print_bytes(data: bytes) -> None:
    """Write bytes to stdout, unchanged. Raises OutputLostError."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputLostError(error) from None


def read_input(what: str) -> str:
    """All of stdin as text. `what` names the expected content in messages. Raises ContractError."""
    return decoded(read_bytes(what), f"{what} on stdin")


def read_bytes(what: str) -> bytes:
    """All of stdin. `what` names the expected content in messages. Raises ContractError when stdin cannot be read."""
    if sys.stdin is None:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"{what}: stdin is closed")
    if not select.select([sys.stdin], [], [], 0 if sys.stdin.isatty() else _PATIENCE_S)[0]:
        sys.stderr.write(f"waiting for {what} on stdin; Ctrl-D ends it\n")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise ContractError(ErrorCode.INVALID_REQUEST, f"{what}: stdin cannot be read: {error.strerror}") from None


def decoded(data: bytes, what: str) -> str:
    """Decode UTF-8; raises ContractError, which names `what` and the first byte that is wrong."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}"
        raise ContractError(ErrorCode.INVALID_REQUEST, message) from None


class _Watched(io.TextIOWrapper):
    """A text stream that raises OutputLostError instead of any OSError."""

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
    """A text stream that silently drops what cannot be written."""

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
    """The same stream as another class, which escapes characters that its encoding does not have."""
    try:
        descriptor, encoding, by_line = stream.fileno(), stream.encoding, stream.line_buffering
    except (AttributeError, io.UnsupportedOperation):  # a stream without a file, as in tests and notebooks
        return stream  # type: ignore[no-any-return]
    stream.flush()
    buffered = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    return kind(buffered, encoding=encoding, errors="backslashreplace", line_buffering=by_line)
