"""The items of queues in SQLite: bytes in first-in-first-out partitions, which expire 24 hours after their last put.

Nothing here waits for items: `queue_rpc.py` does. The limits are Modal's, from the docstrings of `modal.Queue` (SDK
1.6.4). Items are still there after a restart of the cloud, which is more than Modal promises.
"""

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.local_cloud.base.errors import CloudError, Reason, invalid, too_large
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.names import Objects

MAX_PARTITIONS = 100_000
MAX_PARTITION_ITEMS = 5_000
MAX_PARTITION_BYTES = 64 * 1024 * 1024
MAX_ITEM_BYTES = 1024 * 1024
MAX_KEY_BYTES = 64
MAX_TTL_S = 24 * 3600  # the default, and the most: "a lower TTL can be specified"
_SWEPT_AT_ONCE = 100  # partitions; a sweep must not hold up the event loop

# Items have rising numbers that are never used again, so that an iteration can continue after the last one that it saw.
_DDL = """
CREATE TABLE IF NOT EXISTS queue_partitions (
  partition INTEGER PRIMARY KEY, queue_id TEXT NOT NULL REFERENCES objects ON DELETE CASCADE, key BLOB NOT NULL,
  expires_at REAL NOT NULL, items INTEGER NOT NULL, size INTEGER NOT NULL, UNIQUE (queue_id, key)
);
CREATE INDEX IF NOT EXISTS queue_partitions_by_expiry ON queue_partitions (expires_at);
CREATE TABLE IF NOT EXISTS queue_items (
  item INTEGER PRIMARY KEY AUTOINCREMENT,
  partition INTEGER NOT NULL REFERENCES queue_partitions ON DELETE CASCADE, value BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS queue_items_by_partition ON queue_items (partition, item);
"""


@dataclass(frozen=True, slots=True)
class Item:
    """One item; `number` rises with every item that is put."""

    number: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """The items that one `take` removed, and what `put_back` needs. `expires_at` is in Unix seconds."""

    queue_id: str
    key: bytes
    items: tuple[Item, ...]
    expires_at: float


class Queues:
    """Puts and takes items. `now` returns Unix seconds.

    The partition key b"" is the default partition. A partition exists while it holds items. Every method raises
    CloudError: NOT_FOUND for a queue that does not exist, INVALID_ARGUMENT for a key that is too long.
    """

    def __init__(self, database: Database, objects: Objects, *, now: Callable[[], float] = time.time) -> None:
        self._db = database
        self._objects = objects
        self._now = now
        database.script(_DDL)

    def put(self, queue_id: str, key: bytes, values: Sequence[bytes], *, ttl_s: int = MAX_TTL_S) -> None:
        """Append all values or none, and let the partition expire `ttl_s` seconds from now.

        Raises CloudError: RESOURCE_EXHAUSTED when the queue is full, INVALID_ARGUMENT for values that are too large
        even for an empty partition and for a TTL outside of 1 s to 24 h.
        """
        size = sum(len(value) for value in values)
        _check_put(values, size)
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise invalid(f"A partition's TTL is 1 to {MAX_TTL_S} seconds, not {ttl_s}.")
        with self._db.transaction():
            self._check(queue_id, key)
            if not values:
                return
            self._drop_if_expired(queue_id, key)
            partition = self._open(queue_id, key, items=len(values), size=size, expires_at=self._now() + ttl_s)
            self._db.executemany(
                "INSERT INTO queue_items (partition, value) VALUES (?,?)", [(partition, value) for value in values]
            )

    def _open(self, queue_id: str, key: bytes, *, items: int, size: int, expires_at: float) -> int:
        """Count new items into a partition, which is made if it is missing, and return its number.

        Raises CloudError RESOURCE_EXHAUSTED when they do not fit.
        """
        row = self._db.one("SELECT * FROM queue_partitions WHERE queue_id=? AND key=?", (queue_id, key))
        if row is None:
            if self.totals(queue_id)[0] >= MAX_PARTITIONS:
                raise _full(f"The queue has {MAX_PARTITIONS:,} partitions, which is the limit.")
            made = self._db.one(
                "INSERT INTO queue_partitions (queue_id, key, expires_at, items, size) VALUES (?,?,?,?,?) "
                "RETURNING partition",
                (queue_id, key, expires_at, items, size),
            )
            assert made is not None, "RETURNING gives the row"
            return int(made["partition"])
        if row["items"] + items > MAX_PARTITION_ITEMS:
            raise _full(
                f"{items:,} more items do not fit: the partition holds {row['items']:,} of at most "
                f"{MAX_PARTITION_ITEMS:,} items."
            )
        if row["size"] + size > MAX_PARTITION_BYTES:
            raise _full(
                f"{size:,} more bytes do not fit: the partition holds {row['size']:,} of at most "
                f"{MAX_PARTITION_BYTES:,} bytes."
            )
        self._db.execute(
            "UPDATE queue_partitions SET items=items+?, size=size+?, expires_at=? WHERE partition=?",
            (items, size, expires_at, row["partition"]),
        )
        return int(row["partition"])

    def take(self, queue_id: str, key: bytes, count: int) -> Taken | None:
        """Remove and return up to `count` of the oldest items; None when there are none.

        Raises CloudError INVALID_ARGUMENT for a `count` below 1.
        """
        if count < 1:
            raise invalid(f"n_values must be at least 1, not {count}.")
        with self._db.transaction():
            row = self._find(queue_id, key)
            if row is None:
                return None
            partition = int(row["partition"])
            items = self._items(partition, after=0, limit=min(count, MAX_PARTITION_ITEMS))
            if len(items) == row["items"]:
                self._db.execute("DELETE FROM queue_partitions WHERE partition=?", (partition,))
            else:
                self._db.execute("DELETE FROM queue_items WHERE partition=? AND item<=?", (partition, items[-1].number))
                self._db.execute(
                    "UPDATE queue_partitions SET items=items-?, size=size-? WHERE partition=?",
                    (len(items), sum(len(item.value) for item in items), partition),
                )
        return Taken(queue_id, key, items, float(row["expires_at"]))

    def put_back(self, taken: Taken) -> None:
        """Undo a `take` whose caller never got the items: they become the partition's oldest again.

        The partition may exceed its limits by that. Does nothing when the queue was deleted or the items have expired.
        """
        size = sum(len(item.value) for item in taken.items)
        with self._db.transaction():
            try:
                row = self._find(taken.queue_id, taken.key)
            except CloudError:
                return
            if row is None:
                if taken.expires_at <= self._now():
                    return
                self._drop_if_expired(taken.queue_id, taken.key)
            self._db.execute(
                "INSERT INTO queue_partitions (queue_id, key, expires_at, items, size) VALUES (?,?,?,?,?) "
                "ON CONFLICT (queue_id, key) DO UPDATE SET items=items+excluded.items, size=size+excluded.size",
                (taken.queue_id, taken.key, taken.expires_at, len(taken.items), size),
            )
            row = self._find(taken.queue_id, taken.key)
            assert row is not None, "it was just made"
            self._db.executemany(
                "INSERT INTO queue_items (item, partition, value) VALUES (?,?,?)",
                [(item.number, row["partition"], item.value) for item in taken.items],
            )

    def after(self, queue_id: str, key: bytes, number: int, *, limit: int) -> tuple[Item, ...]:
        """Return up to `limit` items after the one with this number, oldest first; nothing is removed."""
        row = self._find(queue_id, key)
        return () if row is None else self._items(int(row["partition"]), after=number, limit=limit)

    def length(self, queue_id: str, key: bytes) -> int:
        """Return the number of items in one partition."""
        row = self._find(queue_id, key)
        return 0 if row is None else int(row["items"])

    def totals(self, queue_id: str) -> tuple[int, int]:
        """Return (number of partitions, number of items in all of them together)."""
        self._check(queue_id)
        row = self._db.one(
            "SELECT COUNT(*) AS partitions, COALESCE(SUM(items), 0) AS items FROM queue_partitions "
            "WHERE queue_id=? AND expires_at>?",
            (queue_id, self._now()),
        )
        assert row is not None, "an aggregate always has a row"
        return int(row["partitions"]), int(row["items"])

    def clear(self, queue_id: str, key: bytes) -> None:
        """Remove every item of one partition."""
        self._check(queue_id, key)
        self._db.execute("DELETE FROM queue_partitions WHERE queue_id=? AND key=?", (queue_id, key))

    def clear_all(self, queue_id: str) -> None:
        """Remove every item of every partition."""
        self._check(queue_id)
        self._db.execute("DELETE FROM queue_partitions WHERE queue_id=?", (queue_id,))

    def drop_expired(self) -> int:
        """Remove up to 100 expired partitions and return how many; 0 means that none is left."""
        return self._db.execute(
            "DELETE FROM queue_partitions WHERE partition IN "
            "(SELECT partition FROM queue_partitions WHERE expires_at<=? LIMIT ?)",
            (self._now(), _SWEPT_AT_ONCE),
        )

    def _check(self, queue_id: str, key: bytes = b"") -> None:
        self._objects.describe("queue", queue_id)
        if len(key) > MAX_KEY_BYTES:
            raise invalid(f"A partition key is at most {MAX_KEY_BYTES} bytes, not {len(key)}.")

    def _find(self, queue_id: str, key: bytes) -> sqlite3.Row | None:
        self._check(queue_id, key)
        return self._db.one(
            "SELECT * FROM queue_partitions WHERE queue_id=? AND key=? AND expires_at>?", (queue_id, key, self._now())
        )

    def _drop_if_expired(self, queue_id: str, key: bytes) -> None:
        self._db.execute(
            "DELETE FROM queue_partitions WHERE queue_id=? AND key=? AND expires_at<=?", (queue_id, key, self._now())
        )

    def _items(self, partition: int, *, after: int, limit: int) -> tuple[Item, ...]:
        rows = self._db.all(
            "SELECT item, value FROM queue_items WHERE partition=? AND item>? ORDER BY item LIMIT ?",
            (partition, after, limit),
        )
        return tuple(Item(int(row["item"]), bytes(row["value"])) for row in rows)


def _check_put(values: Sequence[bytes], size: int) -> None:
    """Raise CloudError INVALID_ARGUMENT for values that do not fit even into an empty partition.

    Not RESOURCE_EXHAUSTED, on which the SDK would retry for ever.
    """
    for value in values:
        if len(value) > MAX_ITEM_BYTES:
            raise too_large("An item of a queue", len(value), MAX_ITEM_BYTES)
    if len(values) > MAX_PARTITION_ITEMS:
        raise invalid(f"A partition holds at most {MAX_PARTITION_ITEMS:,} items, not {len(values):,}: split them.")
    if size > MAX_PARTITION_BYTES:
        raise too_large("A partition of a queue", size, MAX_PARTITION_BYTES)


def _full(message: str) -> CloudError:
    return CloudError(Reason.RESOURCE_EXHAUSTED, f"{message} Get or clear some items, or wait until they expire.")
