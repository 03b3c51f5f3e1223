"""Pieces of spools on their way to clients, each in memory once, however many responses hold it.

The SDK's web runtime takes 1,024 messages of a response before it makes anybody wait (SDK 1.6.4), and does not tell how
many the client has: a client that has stalled holds so many pieces. Clients that stall in the same stream hold the same
ones, because pieces begin and end at the same offsets for all. What is held altogether is known here; when it is too
much, pieces become small.
"""

import sys
from collections import OrderedDict

from modal_app.runs.event_spool import Spool

PIECE_BYTES = 64 * 1024
_SMALL_BYTES = 2 * 1024
_BUDGET_BYTES = 128 * 1024 * 1024
_KEPT_BYTES = 4 * 1024 * 1024  # without a holder, for the next one who asks
_SCANNED = 16  # entries at a time: looking for what nobody holds must not take long
_HELD = 3  # references to a piece out of the table that somebody holds, beside the local name's and the call's


class SharedChunks:
    """One container's pieces; every response takes its own from here."""

    def __init__(self, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._table: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._bytes = 0

    def take(self, spool: Spool, offset: int) -> bytes:
        """The bytes of a spool from an offset on, up to where a piece ends or to what there is."""
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
        """Drop the oldest pieces that nobody holds, some at a time."""
        for _ in range(min(_SCANNED, len(self._table))):
            if self._bytes <= _KEPT_BYTES:
                return
            key, piece = self._table.popitem(last=False)
            if sys.getrefcount(piece) < _HELD:
                self._bytes -= len(piece)
            else:
                self._table[key] = piece
