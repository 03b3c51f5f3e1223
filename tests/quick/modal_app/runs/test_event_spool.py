"""What the readers of a spool get when it is closed before they are done."""

import pytest

from modal_app.runs.batches import Batch
from modal_app.runs.event_spool import Spool, SpoolBrokenError


async def test_a_reader_that_has_not_read_to_the_end_is_told_that_the_spool_is_closed() -> None:
    """Whether more was there for it, or still to come."""
    spool = Spool("0190b1a4-0000-7000-8000-000000000000")
    frames = b"".join(b"id: %d\ndata: {}\n\n" % number for number in (1, 2))
    spool.append(Batch(1, 2, frames))
    behind = spool.read(take=lambda one, offset: one.piece(offset, offset + 1))
    waiting = spool.read(after=2)
    await anext(behind)
    spool.close()
    for reader in (behind, waiting, spool.read(after=1)):
        with pytest.raises(SpoolBrokenError):
            await anext(reader)
