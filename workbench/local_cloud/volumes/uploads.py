"""Changes to a volume's files from outside of any container, as `modal volume put|rm|cp` makes them.

Each is one commit on the committed state; mounts are not involved and no link is followed. A request that fails changes
nothing.
"""

from dataclasses import replace

from workbench.local_cloud.base.errors import already_exists, invalid, not_found
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, Removal, clean, parents

AUTHOR = "client:api"


class VolumeFiles:
    """Lists, puts, removes and copies files. Paths are a client's, and are checked here.

    Every method raises CloudError: NOT_FOUND for the volume, INVALID_ARGUMENT for a bad path.
    """

    def __init__(self, committed: CommittedVolumes) -> None:
        self._committed = committed

    def entries(self, volume_id: str, path: str, *, recursive: bool) -> list[Entry]:
        """Return a directory's entries, or the entry itself when the path is no directory; NOT_FOUND if missing."""
        self._committed.version(volume_id)
        found = self._existing(volume_id, clean(path))
        return self._committed.below(volume_id, found.path, recursive=recursive) if found.kind == "dir" else [found]

    def file(self, volume_id: str, path: str) -> Entry:
        """Return the entry of a regular file; NOT_FOUND if missing, INVALID_ARGUMENT if it is something else."""
        self._committed.version(volume_id)
        found = self._existing(volume_id, clean(path))
        if found.kind != "file":
            raise invalid(f"'{path}' is not a regular file.")
        return found

    def put(self, volume_id: str, entries: list[Entry], *, overwrite: bool) -> None:
        """Put files as one commit.

        Raises CloudError ALREADY_EXISTS when a path is a directory or lies below a file, also one of `entries`, and for
        a file that exists unless `overwrite`.
        """
        with self._committed.transaction():
            self._committed.version(volume_id)
            paths = {entry.path for entry in entries}
            for entry in entries:
                if not entry.path:
                    raise invalid("A file needs a name: its path is empty or '/'.")
                self._refuse_clash(volume_id, entry.path, overwrite=overwrite)
                for parent in paths.intersection(parents(entry.path)):
                    raise already_exists(f"'{entry.path}' cannot be put together with the file '{parent}'.")
            self._committed.publish(volume_id, list(entries), author=AUTHOR)

    def _refuse_clash(self, volume_id: str, path: str, *, overwrite: bool) -> None:
        existing = self._committed.entry(volume_id, path)
        if existing is not None and existing.kind == "dir":
            raise already_exists(f"'{path}' is a directory: a file cannot replace it.")
        if existing is not None and not overwrite:
            raise already_exists(f"'{path}' already exists: use --force, or force=True, to overwrite it.")
        self._refuse_below_file(volume_id, path)

    def _refuse_below_file(self, volume_id: str, path: str) -> None:
        for parent in parents(path):
            above = self._committed.entry(volume_id, parent)
            if above is not None and above.kind != "dir":
                raise already_exists(f"'{path}' cannot be put: '{parent}' is not a directory.")

    def remove(self, volume_id: str, path: str, *, recursive: bool) -> None:
        """Remove a file, or a directory if `recursive`.

        Raises CloudError: NOT_FOUND for the path, INVALID_ARGUMENT for a directory without `recursive`.
        """
        with self._committed.transaction():
            self._committed.version(volume_id)
            found = self._existing(volume_id, clean(path))
            below = self._committed.below(volume_id, found.path) if found.kind == "dir" else []
            if found.kind == "dir" and not recursive:
                raise invalid(f"'{path}' is a directory: use recursive (modal volume rm -r).")
            changes = [Removal(entry.path) for entry in below]
            if found.path:
                changes.append(Removal(found.path))
            self._committed.publish(volume_id, list(changes), author=AUTHOR)

    def copy(self, volume_id: str, sources: list[str], target: str, *, recursive: bool) -> None:
        """Copy as `cp` does: into the target if it is a directory, else to it. Several sources need a directory.

        Raises CloudError: NOT_FOUND for a source, INVALID_ARGUMENT for a target that is no directory, for a copy whose
        path is too long, and for a directory without `recursive` or into itself, ALREADY_EXISTS for a file onto a
        directory, a directory onto a file, a target below a file, and two files at one path.
        """
        with self._committed.transaction():
            self._committed.version(volume_id)
            into = clean(target)
            existing = self._committed.entry(volume_id, into)
            is_dir = existing is not None and existing.kind == "dir"
            if not is_dir and (len(sources) > 1 or target.endswith("/")):
                raise invalid(f"'{target}' is not a directory: only a directory takes several files or ends with '/'.")
            self._refuse_below_file(volume_id, into)
            copies: dict[str, Entry] = {}
            for source in dict.fromkeys(map(clean, sources)):
                found = self._existing(volume_id, source)
                name = found.path.rsplit("/", 1)[-1]
                to = "/".join(filter(None, (into, name))) if is_dir else into
                if found.kind == "dir":
                    if not recursive:
                        raise invalid(f"'{source}' is a directory: use recursive (modal volume cp -r).")
                    if not found.path or (to + "/").startswith(found.path + "/"):
                        raise invalid(f"'{source or '/'}' cannot be copied into itself.")
                below = self._committed.below(volume_id, found.path) if found.kind == "dir" else []
                for entry in (found, *below):
                    copied = replace(entry, path=clean(to + entry.path[len(found.path) :]))
                    self._refuse_loss(volume_id, copied, copies.get(copied.path))
                    copies[copied.path] = copied
            self._committed.publish(volume_id, list(copies.values()), author=AUTHOR)

    def _refuse_loss(self, volume_id: str, copied: Entry, earlier: Entry | None) -> None:
        """Refuse to replace a directory or to become one where a file is, or was put by an `earlier` copy."""
        path, is_dir = copied.path, copied.kind == "dir"
        if earlier is not None and not (is_dir and earlier.kind == "dir"):
            raise already_exists(f"'{path}' would be written twice: copy one of the sources elsewhere.")
        existing = self._committed.entry(volume_id, path)
        if existing is not None and is_dir != (existing.kind == "dir"):
            this, other = ("file", "directory") if is_dir else ("directory", "file")
            raise already_exists(f"'{path}' is a {this}: a {other} cannot replace it.")

    def _existing(self, volume_id: str, path: str) -> Entry:
        found = self._committed.entry(volume_id, path)
        if found is None:
            raise not_found(f"No such file or directory: '{path}'.")
        return found
