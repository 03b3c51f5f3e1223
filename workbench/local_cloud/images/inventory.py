"""What a state directory has of images: each with its base, its layers and its size; and the removal of unused ones.

Reads the database and the files; `prune` is for the state of a cloud that does not run.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.images.build_logs import BuildLog
from workbench.local_cloud.images.names import CURRENT
from workbench.local_cloud.images.plans import ImageConfig
from workbench.local_cloud.rootfs import kept_bases
from workbench.local_cloud.rootfs.layers import files_below, remove_layers
from workbench.local_cloud.store.database import Database

ROOTFS, LAYERS, LIVE, BLOBS, IMAGES = "rootfs", "layers", "live", "blobs", "images"
_IMAGE_ID = re.compile(rb"im-[A-Za-z0-9]{22}")
_BASE = "The base is "
_PLAIN = "this machine's system"


@dataclass(frozen=True)
class Listed:
    """One image: its id, its state, what it stands on, how many layers it has, its size, its age, and who uses it.

    `size` is in bytes, with all its layers, of which other images may have some too; `finished_at` in Unix seconds.
    `used` says whether a name, an app, a deployment that can be rolled back to, or an image on top of it needs it;
    `names` are the names that it was published under, each as environment/name:tag.
    """

    image_id: str
    state: str
    base: str
    layers: int
    size: int
    finished_at: float
    used: bool
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pruned:
    """What was removed: how many images, how many layers, directories and downloads, and their bytes."""

    images: int
    removed: int
    size: int


def listed(state: Path, database: Database) -> list[Listed]:
    """Return all images, the newest first."""
    rows = _rows(database)
    used, names = _used(database, rows), _names(database)
    sizes: dict[Path, int] = {}

    def size(path: Path) -> int:
        if path not in sizes:
            sizes[path] = _all_bytes(path)
        return sizes[path]

    found = []
    for image_id, row in rows.items():
        config = ImageConfig.from_json(row["meaning"])
        paths = [state / ROOTFS / LAYERS / key for key in config.layers]
        paths += [state / IMAGES / row["directory"]] if row["directory"] else []
        found.append(
            Listed(
                image_id,
                row["state"],
                _base(image_id, rows) if config.layers else _PLAIN,
                len(config.layers) or bool(row["directory"]),
                sum(map(size, paths)),
                row["finished_at"],
                image_id in used,
                tuple(names.get(image_id, ())),
            )
        )
    return sorted(found, key=lambda image: image.finished_at, reverse=True)


def prune(state: Path, database: Database, *, before: float) -> Pruned:
    """Remove the images that nothing uses and that were built before a time (Unix seconds), and all unused files.

    So are the bases that this user's clouds share, and that none uses or has begun to use since then.
    """
    rows = _rows(database)
    used = _used(database, rows)
    gone = [image_id for image_id, row in rows.items() if image_id not in used and row["finished_at"] < before]
    with database.transaction():
        for image_id in gone:
            database.execute("DELETE FROM image_layers WHERE image_id=?", (image_id,))
    removed, size = collect(state, database)
    bases, bases_size = kept_bases.prune(before=before)
    return Pruned(len(gone), removed + bases, size + bases_size)


def collect(state: Path, database: Database) -> tuple[int, int]:
    """Remove the layers, directories and downloads that no image needs; returns how many, and their bytes."""
    rows = _rows(database)
    built = [row for row in rows.values() if row["state"] == "built"]
    kept = {key for row in built for key in ImageConfig.from_json(row["meaning"]).layers}
    directories = {str(row["directory"]) for row in built if row["directory"]}
    unused = [path for path in _entries(state / ROOTFS / LAYERS) if path.name not in kept]
    unused += [path for path in _entries(state / IMAGES) if path.name not in directories]
    unused += _entries(state / ROOTFS / LIVE)
    unused += [path for path in _entries(state / ROOTFS / BLOBS) if path.name != "tmp"]  # a pull asks for them again
    size = sum(map(tree_bytes, unused))
    of_users_inside = [path for path in unused if path.parent.parent.name == ROOTFS and path.parent.name != BLOBS]
    remove_layers(state / ROOTFS, of_users_inside)
    for path in unused:
        remove_tree(path)
    return len(unused), size


def missing(state: Path, database: Database) -> list[str]:
    """Return a sentence for each built image whose files are not all there."""
    found = []
    for image_id, row in _rows(database).items():
        paths = [state / ROOTFS / LAYERS / key for key in ImageConfig.from_json(row["meaning"]).layers]
        paths += [state / IMAGES / row["directory"]] if row["directory"] else []
        if row["state"] == "built" and not all(path.is_dir() for path in paths):
            found.append(f"image {image_id}: its files are missing; the next deployment builds it anew")
    return found


def tree_bytes(directory: Path) -> int:
    """Return the bytes that removing a directory frees: without files that others share by hard links.

    Files of directories that we may not enter, which are those of users inside, are left out.
    """
    return sum(status.st_size for status in files_below(directory) if status.st_nlink == 1)


def _all_bytes(directory: Path) -> int:
    """Return the bytes of a directory's files, each counted once, whoever shares them."""
    return sum({status.st_ino: status.st_size for status in files_below(directory)}.values())


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _rows(database: Database) -> dict[str, dict[str, Any]]:
    if not _has(database, "image_layers"):
        return {}
    return {str(row["image_id"]): dict(row) for row in database.all("SELECT * FROM image_layers")}


def _base(image_id: str, rows: dict[str, dict[str, Any]]) -> str:
    """Return what an image stands on, as the log of its lowest layer's build says it."""
    for _ in range(len(rows)):
        row = rows.get(image_id)
        if row is None:
            break
        for line in BuildLog.from_json(str(row["log"])).lines:
            if line.text.startswith(_BASE):
                return line.text.removeprefix(_BASE).partition(":")[0].strip().rstrip(".")
        parents = json.loads(str(row["parents"]))
        if not parents:
            break
        image_id = parents[0]
    return "a root file system of its own"


def _used(database: Database, rows: dict[str, dict[str, Any]]) -> set[str]:
    """Return the ids of images that names, functions, deployments or snapshots refer to, with those below them."""
    found = set(_names(database))
    for table in ("functions", "deployed_functions"):
        if _has(database, table):
            for row in database.all(f"SELECT definition FROM {table}"):  # noqa: S608  # one of two names
                found |= {match.decode() for match in _IMAGE_ID.findall(row["definition"])}
    if _has(database, "snapshots"):
        for row in database.all("SELECT image_id, base_image_id FROM snapshots"):
            found |= {str(row["image_id"]), str(row["base_image_id"])}
    waiting = list(found)
    while waiting:
        row_of = rows.get(waiting.pop())
        more = set(json.loads(str(row_of["parents"]))) - found if row_of is not None else set()
        found |= more
        waiting += more
    return found


def _names(database: Database) -> dict[str, list[str]]:
    """Return the names that mean an image, by the image's id."""
    found: dict[str, list[str]] = {}
    if _has(database, "image_names"):
        rows = database.all(
            "SELECT image_id, image_names.name AS name, objects.name AS environment FROM image_names "  # noqa: S608  # ours
            f"JOIN objects ON object_id=environment_id WHERE {CURRENT} ORDER BY environment, image_names.name"
        )
        for row in rows:
            found.setdefault(str(row["image_id"]), []).append(f"{row['environment']}/{row['name']}")
    return found


def _has(database: Database, table: str) -> bool:
    return database.one("SELECT 1 FROM sqlite_master WHERE type='table' AND name=?", (table,)) is not None
