"""Puts bytes of any size on a queue whose items have a largest size: cuts them into parts, and joins them again."""

import re
import secrets

MAX_ITEM_BYTES = 768 * 1024  # Modal takes 1 MiB, including what serializing adds
_PART = re.compile(rb"part ([0-9a-f]{16}) (\d{1,4}) (\d{1,4})\n")


def parts(data: bytes) -> list[bytes]:
    """The bytes as items of at most MAX_ITEM_BYTES, with headers by which `Joiner` joins them if there are several."""
    if len(data) <= MAX_ITEM_BYTES:
        return [data]
    name = secrets.token_hex(8).encode()
    pieces = [data[start : start + MAX_ITEM_BYTES] for start in range(0, len(data), MAX_ITEM_BYTES)]
    return [b"part %s %d %d\n" % (name, number, len(pieces)) + piece for number, piece in enumerate(pieces)]


class Joiner:
    """Joins the items that `parts` has made, as they are read from the queue in their order."""

    def __init__(self) -> None:
        self._name = b""
        self._pieces: dict[int, bytes] = {}

    def feed(self, item: object) -> bytes | None:
        """Take the next item; returns the bytes that it completes, or None while parts are missing.

        Bytes of which a part never comes are dropped when the parts of others begin.
        """
        header = _PART.match(item) if isinstance(item, bytes) else None
        if header is None or not isinstance(item, bytes):
            return item if isinstance(item, bytes) else b""
        name, number, count = header[1], int(header[2]), int(header[3])
        if name != self._name:
            self._name, self._pieces = name, {}
        self._pieces[number] = item[header.end() :]
        if len(self._pieces) < count:
            return None
        whole = b"".join(self._pieces[one] for one in sorted(self._pieces))
        self._name, self._pieces = b"", {}
        return whole
