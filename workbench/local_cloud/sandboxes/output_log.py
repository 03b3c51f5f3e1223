"""Follows what a sandbox's program prints and hands it on by lines, for the app's log; a flood costs a bounded log.

The log never holds the program up and never lets it run ahead: its reader counts for nothing in the spool. Of what
comes faster than the log can take, the newest part is kept, and the log says how much is missing.
"""

import asyncio
import codecs
from collections.abc import Callable

from workbench.local_cloud.sandboxes.spool import OutputForgottenError, Spool

CHUNK_BYTES = 64 * 1024
PAUSE_S = 0.05  # between two chunks: about a mebibyte a second
MAX_BEHIND_BYTES = 1024 * 1024
PARTIAL_LINE_S = 0.5  # a line without its end waits so long for it
MAX_ROWS = 200  # of one chunk; of very short lines several become one row
MAX_LINE_CHARS = 8192  # a longer line becomes several

OnLines = Callable[[list[str]], None]


async def follow(spool: Spool, on_lines: OnLines) -> None:
    """Hand the whole stream on, to its end."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offset, partial = 0, ""
    while True:
        if spool.size - offset > MAX_BEHIND_BYTES:
            kept = spool.size - MAX_BEHIND_BYTES
            on_lines([f"{partial}\n[local cloud: {kept - offset} bytes are left out of the log here]\n"])
            offset, partial = kept, ""
        try:
            async with asyncio.timeout(PARTIAL_LINE_S if partial else None):
                data = await spool.read(offset, max_bytes=CHUNK_BYTES, pace=False)
        except TimeoutError:
            on_lines([partial])
            partial = ""
            continue
        except OutputForgottenError:
            offset = spool.kept_from
            continue
        offset += len(data)
        lines = _lines(partial + decoder.decode(data, final=not data))
        partial = lines.pop() if lines and data and not lines[-1].endswith("\n") else ""
        if lines:
            on_lines(lines)
        if not data:
            return
        if not spool.finished:
            await asyncio.sleep(PAUSE_S)


def _lines(text: str) -> list[str]:
    """Cut at line feeds, which stay, and where a line is too long."""
    found = []
    for line in text.split("\n"):
        found += [line[at : at + MAX_LINE_CHARS] for at in range(0, len(line), MAX_LINE_CHARS)] or [""]
        found[-1] += "\n"
    found[-1] = found[-1][:-1]
    found = found if found[-1] else found[:-1]
    together = len(found) // MAX_ROWS + 1
    return ["".join(found[at : at + together]) for at in range(0, len(found), together)]
