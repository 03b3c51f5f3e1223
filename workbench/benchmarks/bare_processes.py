"""Runs work as bare child processes on this machine, for baselines."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_S = 300
_CHUNK_BYTES = 256 * 1024


def milliseconds(work: Callable[[], object]) -> float:
    """How many milliseconds a call takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def to_first_output(argv: Sequence[str]) -> float:
    """Milliseconds from the start of a process to its first output; the process is then killed."""
    started = time.perf_counter()
    with running(argv) as process:
        assert process.stdout is not None
        process.stdout.read1(64)  # type: ignore[attr-defined]  # a buffered reader
        return (time.perf_counter() - started) * 1000


def to_end(argv: Sequence[str]) -> float:
    """Milliseconds from the start of a process to its end."""
    return milliseconds(lambda: subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, timeout=TIMEOUT_S))


def chunks(argv: Sequence[str]) -> Iterator[tuple[float, bytes]]:
    """Yield what a process prints in chunks, each with the monotonic time in seconds at which it was read."""
    with running(argv) as process:
        assert process.stdout is not None
        while data := process.stdout.read1(_CHUNK_BYTES):  # type: ignore[attr-defined]  # a buffered reader
            yield time.monotonic(), data
        if process.wait(TIMEOUT_S) != 0:
            raise RuntimeError(f"{argv[0]} ended with exit code {process.returncode}")


def python(code: str) -> list[str]:
    """The command that runs a Python program as the endpoint does: unbuffered, and without loading site packages."""
    return [sys.executable, "-S", "-u", "-c", code]


def bubblewrapped(argv: Sequence[str]) -> list[str]:
    """The command that runs a program under bubblewrap alone: the system read-only, and no network."""
    words = ["bwrap", "--unshare-all", "--new-session", "--as-pid-1", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr"]
    for path in map(Path, ("/bin", "/sbin", "/lib", "/lib64")):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108  # inside
    for prefix in sorted({sys.prefix, sys.base_prefix}):
        words += ["--ro-bind", prefix, prefix]  # the interpreter's, which may lie elsewhere
    return [*words, "--", *argv]


@contextmanager
def running(argv: Sequence[str]) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that is killed when the block ends."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()
