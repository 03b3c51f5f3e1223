"""Starts a module in a container as `python -m` does, and marks which input prints what if it works on several at once.

It needs only Python's standard library and the SDK, which is imported without pauses for the collection of garbage:
there is none yet, and to look for it takes a tenth of a container's start.

The first argument is the module's name; with a second one, `together`, output is marked. Output through
`sys.stdout` and `sys.stderr` is written between two marks that name the input, in pieces small enough that a pipe does
not mix them. Output written to the descriptors directly, also by child processes, has no marks.
"""

import gc
import importlib
import io
import os
import runpy
import sys
from pathlib import Path

_PIECE_BYTES = 3500  # with its marks less than PIPE_BUF, so that pieces of threads and children do not mix
TOGETHER = "together"
_CONTEXT = "modal._runtime.execution_context"


class Framed(io.RawIOBase):
    """A raw stream to a descriptor that puts marks around whatever belongs to an input."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor, which child processes inherit; they write without marks."""
        return self._descriptor

    def writable(self) -> bool:
        """Return True: it takes bytes."""
        return True

    def isatty(self) -> bool:
        """Return False: it is a pipe."""
        return False

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # any buffer, as every raw stream takes
        """Write all bytes of a buffer, with marks, and return how many bytes it has."""
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
        Framed(descriptor),  # type: ignore[arg-type]  # without a buffer, which would mix the output of threads
        encoding=stream.encoding,
        errors=stream.errors,
        write_through=True,
    )


if __name__ == "__main__":
    if sys.argv[2:] == [TOGETHER]:
        sys.stdout = sys.__stdout__ = _framed(sys.stdout, 1)  # type: ignore[misc]  # programs may use either name
        sys.stderr = sys.__stderr__ = _framed(sys.stderr, 2)  # type: ignore[misc]
    sys.path[0] = str(Path.cwd())  # as with `-m`
    sys.argv = sys.argv[1:2]
    gc.disable()
    importlib.import_module(sys.argv[0].partition(".")[0])
    gc.freeze()  # it stays to the end
    gc.enable()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
