"""Remembers the answers of calls, so that a call which is repeated with the same key is not done twice.

The SDK gives each call an idempotency key, and sends the same key again with each retry of it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from google.protobuf.message import Message

KEPT_S = 300.0  # longer than any client retries a call
_MAX_KEPT = 10_000
_MAX_BYTES = 64 * 1024 * 1024
_MAX_KEY_CHARS = 128

Key = tuple[str, str, str]  # the caller, the RPC, the client's idempotency key


class Answers:
    """The newest answers, at most 10,000, 64 MiB and 300 s old. `now` returns seconds that never go back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kept: OrderedDict[Key, tuple[float, int, Message]] = OrderedDict()
        self._size = 0

    def find(self, key: Key) -> Message | None:
        """Return the answer that was given for this key, None when it is not remembered."""
        found = self._kept.get(key)
        return found[2] if found is not None and found[0] > self._now() - KEPT_S else None

    def keep(self, key: Key, answer: Message) -> None:
        """Remember an answer, unless it or its key is too large or the key has one already; drops the oldest ones."""
        size = answer.ByteSize() + sum(map(len, key))
        if size > _MAX_BYTES or len(key[2]) > _MAX_KEY_CHARS or key in self._kept:
            return
        self._kept[key] = (self._now(), size, answer)
        self._size += size
        oldest = self._now() - KEPT_S
        while len(self._kept) > _MAX_KEPT or self._size > _MAX_BYTES or next(iter(self._kept.values()))[0] < oldest:
            _, (_, gone, _) = self._kept.popitem(last=False)
            self._size -= gone
