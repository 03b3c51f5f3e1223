"""Looks at the host's processes by id. A process that ends meanwhile is left out of the answer; it is no error."""

import asyncio
import codecs
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil

MAX_LINE_BYTES = 16 * 1024  # what a StreamReader for `lines` must have as its limit


def start_of(pid: int) -> str | None:
    """When a live process was started, as a text that no other process with the same id has; None when there is none.

    It holds the id of the machine's boot and the clock ticks since then. A time of day would not do: it is computed
    from the wall clock, so it changes when that clock is set.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()  # a program's own name in it may be any bytes
        state, *fields = stat.rpartition(b")")[2].decode().split()  # proc_pid_stat(5)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return None if state in "ZX" else f"{boot}/{fields[18]}"


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all of its descendants; empty when it has ended.

    Asks the kernel for each process's children, because psutil's own search looks at every process of the machine.
    """
    found: dict[int, psutil.Process] = {}
    waiting = [pid]
    while waiting:
        process_id = waiting.pop()
        if process_id in found:  # the id was given to a new process while we looked
            continue
        with suppress(psutil.Error):
            found[process_id] = psutil.Process(process_id)
            waiting += _children(process_id)
    return list(found.values())


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text(encoding="utf-8").split())
    return found


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield what a program prints, line by line, each with its line feed.

    A line longer than the stream's limit comes in pieces, of which only the last one ends with the line feed.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    within_a_line = False
    while True:
        try:
            line = await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            last = decoder.decode(error.partial, final=True)
            if last or within_a_line:
                yield last + "\n"
            return
        except asyncio.LimitOverrunError as error:
            line = await stream.readexactly(error.consumed)
        within_a_line = not line.endswith(b"\n")
        if text := decoder.decode(line):
            yield text
