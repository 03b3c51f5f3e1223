"""Small contents of an upload, in memory until something refers to them: then they are kept together.

A client uploads each file by a call of its own, and names the files afterwards. Only that is answered with a promise,
so only then is there anything to wait for the disk for: once for all files, not once for each.
"""

import asyncio
import threading
from collections.abc import Iterable

from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.store.packs import MAX_CONTENT_BYTES

_MAX_BYTES = 32 * 1024**2  # in memory; when there is more, all of it is kept


class Arrivals:
    """Contents that have arrived, by their sha256: those in memory, and those in the store."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._lock = threading.Lock()
        self._waiting: dict[str, bytes] = {}
        self._bytes = 0

    def has(self, sha256: str) -> bool:
        """Whether a content has arrived. What refers to it must call `keep` before."""
        return sha256 in self._waiting or self._content.has(sha256)

    async def add(self, sha256: str, data: bytes) -> None:
        """Take a content, whose sha256 the caller has checked. Raises CloudError RESOURCE_EXHAUSTED, OSError."""
        if len(data) > MAX_CONTENT_BYTES:
            await asyncio.to_thread(self._content.add_bytes, data)
            return
        with self._lock:
            if sha256 not in self._waiting:
                self._waiting[sha256] = data
                self._bytes += len(data)
        if self._bytes > _MAX_BYTES:
            await asyncio.to_thread(self.keep, list(self._waiting))

    def keep(self, wanted: Iterable[str]) -> None:
        """Keep those of some contents that are in memory, with one wait for the disk; blocks. Errors as for `add`."""
        with self._lock:
            found = {sha256: self._waiting[sha256] for sha256 in wanted if sha256 in self._waiting}
        if not found:
            return
        with self._content.batch() as batch:
            for data in found.values():
                batch.add_chunks([data])
        with self._lock:
            for sha256 in found:
                self._bytes -= len(self._waiting.pop(sha256, b""))
