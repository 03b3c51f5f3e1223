"""Runs in a function's container in place of `python -m`, where inputs run together: says whose each output is.

Needs nothing but Python. What a process prints through `sys.stdout` and `sys.stderr` is framed by the input that prints
it, in pieces that a pipe takes whole; what it writes to the descriptors directly, and what its children print, is not.
"""

import io
import os
import runpy
import sys
from pathlib import Path

_PIECE_BYTES = 3500  # with its frame less than PIPE_BUF, so that pieces of threads and children do not mix
_CONTEXT = "modal._runtime.execution_context"


class Framed(io.RawIOBase):
    """A descriptor to which whatever belongs to an input is written between two marks."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor itself, for children."""
        return self._descriptor

    def writable(self) -> bool:
        """It takes bytes."""
        return True

    def isatty(self) -> bool:
        """It is a pipe."""
        return False

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # any buffer, as every raw stream takes
        """Write all of it."""
        whole = bytes(data)
        begin, end = _marks()
        for at in range(0, len(whole), _PIECE_BYTES):
            piece = begin + whole[at : at + _PIECE_BYTES] + end
            while piece:
                piece = piece[os.write(self._descriptor, piece) :]
        return len(whole)


def _marks() -> tuple[bytes, bytes]:
    context = sys.modules.get(_CONTEXT)
    input_id = context._current_input_id.get("") if context is not None else ""
    return (f"\x1b]input;{input_id}\x07".encode(), b"\x1b]input;\x07") if input_id else (b"", b"")


def _framed(stream, descriptor: int) -> io.TextIOWrapper:  # type: ignore[no-untyped-def]  # a text stream of any kind
    return io.TextIOWrapper(
        Framed(descriptor),  # type: ignore[arg-type]  # raw, because a buffer would mix what threads write
        encoding=stream.encoding,
        errors=stream.errors,
        write_through=True,
    )


if __name__ == "__main__":
    sys.stdout = sys.__stdout__ = _framed(sys.stdout, 1)  # type: ignore[misc]  # for whoever asks for the first one
    sys.stderr = sys.__stderr__ = _framed(sys.stderr, 2)  # type: ignore[misc]
    sys.path[0] = str(Path.cwd())  # as with `-m`
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
