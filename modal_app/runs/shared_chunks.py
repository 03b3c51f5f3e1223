"""Chunks of spools on their way to clients: each is in memory once, however many responses hold it.

The SDK's web runtime queues up to 1,024 messages of a response before it makes the sender wait (SDK 1.6.4), and does
not tell how many the client has taken. So a stalled client can hold 1,024 chunks in this container's memory. Clients
that stall in the same stream hold the same ones, because chunks begin and end at the same offsets for everybody. The
bytes that all responses hold together are counted here; above a budget, new chunks are small.
"""

import sys
from collections import OrderedDict

from modal_app.runs.event_spool import Spool

PIECE_BYTES = 64 * 1024
_SMALL_BYTES = 2 * 1024
_BUDGET_BYTES = 128 * 1024 * 1024
_KEPT_BYTES = 4 * 1024 * 1024  # chunks that no response holds are dropped only above this, for the next reader's sake
_SCANNED = 16  # entries looked at per call: the search for chunks that no response holds must be short
_HELD = 3  # `sys.getrefcount` of a chunk taken from the table that a response holds: 1, the local name, the argument


class SharedChunks:
    """The chunks of all responses of one container."""

    def __init__(self, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._table: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._bytes = 0

    def take(self, spool: Spool, offset: int) -> bytes:
        """The bytes of a spool from `offset` up to the next chunk boundary, or to the spool's end if that is nearer."""
        size = PIECE_BYTES if self._bytes < self._budget_bytes else _SMALL_BYTES
        end = min(spool.size, (offset // size + 1) * size)
        key = (spool.key, offset, end)
        piece = self._table.get(key)
        if piece is None:
            piece = self._table[key] = spool.piece(offset, end)
            self._bytes += len(piece)
            self._forget()
        else:
            self._table.move_to_end(key)
        return piece

    def _forget(self) -> None:
        """Drop the oldest chunks that no response holds, looking at no more than 16."""
        for _ in range(min(_SCANNED, len(self._table))):
            if self._bytes <= _KEPT_BYTES:
                return
            key, piece = self._table.popitem(last=False)
            if sys.getrefcount(piece) < _HELD:
                self._bytes -= len(piece)
            else:
                self._table[key] = piece
