"""Processes as the host sees them, by id; whatever ends meanwhile is left out, never an error."""

import asyncio
import codecs
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil

MAX_LINE_BYTES = 16 * 1024  # the limit that a stream read by `lines` is made with


def start_of(pid: int) -> str | None:
    """What tells a live process from any other that has had or will have its number; None when there is none.

    Its start in clock ticks since the boot, and which boot that was. A time of day would not do: it is computed from
    the wall clock, and is another one after the clock was set.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # proc_pid_stat(5)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if state in "ZX" else f"{boot}/{fields[18]}"


def family(pid: int) -> list[psutil.Process]:
    """A process and all of its descendants; empty when it is gone.

    Asks the kernel for children, which costs by the size of the family: psutil looks at every process of the machine.
    """
    found: dict[int, psutil.Process] = {}
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        if one in found:  # its number was given again while we looked
            continue
        with suppress(psutil.Error):
            found[one] = psutil.Process(one)
            waiting += _children(one)
    return list(found.values())


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """What a program prints, line by line with the line feed; a long line comes in pieces, the last of which has it."""
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
