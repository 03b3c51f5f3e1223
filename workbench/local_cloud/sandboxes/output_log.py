"""Copies what a sandbox's program prints into its app's log, line by line and at a bounded rate.

Reading for the log has no effect on the program: it neither waits for the log, nor may it print more because the log
has read. Of output that comes too fast only the newest part is logged, and a row says how many bytes are missing.
"""

import asyncio

from workbench.local_cloud.base.log_lines import CHUNK_BYTES, PARTIAL_LINE_S, OnRows, Rows
from workbench.local_cloud.sandboxes.engine.output_spool import OutputForgottenError, OutputLostError, Spool

PAUSE_S = 0.05  # between two chunks, which limits the log to about 1 MiB a second
MAX_BEHIND_BYTES = 4 * 1024 * 1024


async def follow(spool: Spool, on_rows: OnRows) -> None:
    """Hand on the rows of a stream until its end. `on_rows` is called with each list of new rows, and may raise."""
    rows, offset = Rows(), 0
    while True:
        if spool.size - offset > MAX_BEHIND_BYTES:
            kept = spool.size - MAX_BEHIND_BYTES
            on_rows([*rows.flush(), _left_out(kept - offset)])
            offset = kept
        try:
            async with asyncio.timeout(PARTIAL_LINE_S if rows.partial else None):
                data = await spool.read(offset, max_bytes=CHUNK_BYTES, pace=False)
        except TimeoutError:
            on_rows(rows.flush())
            continue
        except OutputForgottenError:
            on_rows([*rows.flush(), _left_out(spool.kept_from - offset)])
            offset = spool.kept_from
            continue
        except OutputLostError as error:
            on_rows([*rows.flush(), f"\n[local cloud: the rest is lost: {error}]\n"])
            return
        offset += len(data)
        if found := rows.take(data):
            on_rows(found)
        if not data:
            return
        await asyncio.sleep(0 if spool.finished else PAUSE_S)


def _left_out(size: int) -> str:
    return f"\n[local cloud: {size} bytes are left out of the log here]\n"
