"""Names of images: which image a name and a tag mean in an environment, and which they meant before.

Each publication is a row, a revision; the newest one of a name counts. An environment is meant by its id, so that its
names stay with it when it is renamed, and a new environment of the same name has none of them.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from sqlite3 import Row

from workbench.local_cloud.base.errors import failed_precondition, invalid
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.store.database import Database

LATEST = "latest"  # the tag of a name without one
MAX_NAMES = 1000  # of all environments, each with its tag: a container may publish, too
MAX_REVISIONS = 50  # of one name and tag; older ones are forgotten
# The SDK's own rules (name_utils.py, _image.py): a name looks neither like an app's id nor like an image's.
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_APP_ID = re.compile(r"ap-[A-Za-z0-9]{22}")

_DDL = """
CREATE TABLE IF NOT EXISTS image_names (
  number INTEGER PRIMARY KEY AUTOINCREMENT, revision_id TEXT NOT NULL UNIQUE, environment_id TEXT NOT NULL,
  name TEXT NOT NULL, image_id TEXT NOT NULL, published_at REAL NOT NULL, published_by TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS image_names_by_name ON image_names (environment_id, name, number);
"""
# Rows that count: those without a newer one of the same name.
CURRENT = "number IN (SELECT MAX(number) FROM image_names GROUP BY environment_id, name)"


@dataclass(frozen=True)
class Reference:
    """What a caller has written: an environment's name, "" for none, and a name with its tag, as in `mine:latest`."""

    environment: str
    name: str


@dataclass(frozen=True)
class Revision:
    """One publication of an image under a name with its tag; times are Unix seconds.

    `number` grows from one to the next. `created_at` is when the oldest revision of the name that is kept was
    published, in a list of names, and when this one was, in a list of revisions.
    """

    number: int
    revision_id: str
    name: str
    image_id: str
    published_at: float
    published_by: str
    created_at: float


def parse(text: str, *, environment: str = "") -> Reference:
    """Read `[environment/]name[:tag]` by the SDK's rules; `environment` counts where the text names none.

    Raises CloudError INVALID_ARGUMENT.
    """
    before, colon, tag = text.partition(":")
    place, slash, name = before.rpartition("/")
    if slash and not place:
        raise invalid("Invalid Image name: the environment before '/' is empty. Leave out the '/', or name one.")
    if name.startswith("im-"):
        raise invalid("Image names cannot start with 'im-', which is kept for ids of images: choose another one.")
    tag = tag if colon else LATEST
    for what, word in (("Image name", name), ("Image tag", tag)):
        if not _WORD.fullmatch(word) or _APP_ID.fullmatch(word):
            raise invalid(
                f"Invalid {what} {word[:64]!r}: use 1 to 64 letters, digits, dashes, dots and underscores, and nothing "
                "that looks like an app's id."
            )
    return Reference(place or environment, f"{name}:{tag}")


class ImageNames:
    """The names of a cloud's images, and the revisions of each."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        """`now` returns Unix seconds."""
        self._db = database
        self._now = now
        database.script(_DDL)

    def publish(self, environment_id: str, name: str, image_id: str, *, by: str) -> Revision:
        """Let a name mean an image from now on. Raises CloudError FAILED_PRECONDITION when there are too many names."""
        with self._db.transaction():
            if self.newest(environment_id, name) is None:
                row = self._db.one(f"SELECT COUNT(*) AS many FROM image_names WHERE {CURRENT}")  # noqa: S608  # ours
                if row is not None and row["many"] >= MAX_NAMES:
                    raise failed_precondition(
                        f"The local cloud keeps at most {MAX_NAMES} names of images. Delete some: "
                        "`modal image names delete NAME:TAG`."
                    )
            self._db.execute(
                "INSERT INTO image_names (revision_id, environment_id, name, image_id, published_at, published_by) "
                "VALUES (?,?,?,?,?,?)",
                (new_id("ir"), environment_id, name, image_id, self._now(), by),
            )
            self._db.execute(
                "DELETE FROM image_names WHERE number IN (SELECT number FROM image_names WHERE environment_id=? "
                "AND name=? ORDER BY number DESC LIMIT -1 OFFSET ?)",
                (environment_id, name, MAX_REVISIONS),
            )
            return self.revisions(environment_id, name, limit=1)[0]

    def newest(self, environment_id: str, name: str) -> Revision | None:
        """Return the revision that counts, None for a name that means no image."""
        return next(iter(self.revisions(environment_id, name, limit=1)), None)

    def listed(
        self, environment_id: str, *, prefix: str = "", image_id: str = "", after: str = "", limit: int
    ) -> list[Revision]:
        """Return the newest revision of each name, in the order of names, at most `limit` of them.

        They begin with `prefix`, mean `image_id` if that is given, and come after the name `after`.
        """
        rows = self._db.all(
            "SELECT *, (SELECT MIN(first.published_at) FROM image_names first WHERE "  # noqa: S608  # our own text
            "first.environment_id=image_names.environment_id AND first.name=image_names.name) AS created_at "
            f"FROM image_names WHERE environment_id=? AND {CURRENT} AND substr(name, 1, ?)=? "
            "AND (?='' OR image_id=?) AND name>? ORDER BY name LIMIT ?",
            (environment_id, len(prefix), prefix, image_id, image_id, after, limit),
        )
        return [_revision(row, row["created_at"]) for row in rows]

    def revisions(self, environment_id: str, name: str, *, before: int = 0, limit: int) -> list[Revision]:
        """Return the revisions of a name, the newest first; only those with a number below `before`, 0 for all."""
        rows = self._db.all(
            "SELECT * FROM image_names WHERE environment_id=? AND name=? AND (?=0 OR number<?) "
            "ORDER BY number DESC LIMIT ?",
            (environment_id, name, before, before, limit),
        )
        return [_revision(row, row["published_at"]) for row in rows]

    def delete(self, environment_id: str, name: str) -> bool:
        """Forget a name and its revisions, not the images; returns whether it was there."""
        known = self._db.execute("DELETE FROM image_names WHERE environment_id=? AND name=?", (environment_id, name))
        return bool(known)


def _revision(row: Row, created_at: float) -> Revision:
    return Revision(
        row["number"],
        row["revision_id"],
        row["name"],
        row["image_id"],
        row["published_at"],
        row["published_by"],
        created_at,
    )
