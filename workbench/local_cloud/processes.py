"""Processes as the host sees them, by id; whatever ends meanwhile is left out, never an error."""

import asyncio
from collections.abc import AsyncIterator

import psutil

MAX_LINE_BYTES = 16 * 1024  # the limit that a stream read by `lines` is made with


def family(pid: int) -> list[psutil.Process]:
    """A process and all of its descendants; empty when it is gone."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return []


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """What a program prints, line by line with the line feed; one that never ends is cut at the stream's limit."""
    while True:
        try:
            line = await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            line = error.partial
        except asyncio.LimitOverrunError as error:
            line = await stream.readexactly(error.consumed) + b"\n"
        if not line:
            return
        yield line.decode(errors="replace")
