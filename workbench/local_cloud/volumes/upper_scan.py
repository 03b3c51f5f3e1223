"""Compares the upper directory of an overlay with what its mount is known to show: cost follows what was written.

The directory holds what a guest has changed: files, directories and links as they are, a whiteout for each name that is
gone, and notes of the kernel on directories: opaque (nothing below it comes from the layers) and redirect (what is
below it comes from another place of the layers, since it was renamed). Changed files are hashed and stored.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from workbench.local_cloud.base.guest_directories import Found, Skipped, walk
from workbench.local_cloud.volumes.committed import Entry, Removal, parents
from workbench.local_cloud.volumes.layers import View
from workbench.local_cloud.volumes.overlay_mounts import OPAQUE, REDIRECT, is_whiteout
from workbench.local_cloud.volumes.scan import Keep, Known, Scan, ScanLimits, is_at_or_below, look, too_many

Changed = Mapping[str, Known | None]  # what differs from the layers, by path; None: removed


@dataclass
class _Upper:
    """What is in an upper directory."""

    entries: dict[str, Known] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)  # whiteouts
    sources: dict[str, str | None] = field(default_factory=lambda: {"": ""})
    """For each directory, the directory of the layers that it also shows, None for none."""
    skipped: list[Skipped] = field(default_factory=list)


def scan_upper(
    root: int, view: View, known: Changed, *, total: int, keep: Keep | None, limits: ScanLimits
) -> tuple[Scan, Changed]:
    """Compare the open upper directory `root` with `known`, which is what its mount showed when it was last in step.

    What `known` does not name is as in `view`; together they are `total` entries. Returns the scan and what is known
    now. Arguments and errors are otherwise as for `scan`; the scan's own `known` has the upper directory's entries.
    """
    before = _Before(view, known)
    upper = _read(root, before, keep, limits)
    moved = dict(_moved(view, upper))
    shown: dict[str, Known] = {**moved, **upper.entries}
    changes: list[Entry | Removal] = []
    files = size = added = size_added = 0
    for path, now in shown.items():
        old = before.entry(path)
        if old is None or not now.entry.same_as(old):
            changes.append(now.entry)
            added += old is None
            size_added += now.entry.size - (old.size if old is not None else 0)
            if now.entry.kind != "dir":
                files, size = files + 1, size + now.entry.size
    kept_out = {item.path for item in upper.skipped}
    removed = set(upper.removed)
    gone: dict[str, Known | None] = {}
    for path in _hidden(view, upper, known, before):
        if path in shown or path in gone:
            continue
        if is_at_or_below(path, kept_out):
            if path in known:
                gone[path] = known[path]
            continue
        old = before.entry(path)
        if old is None and not _is_covered(path, "", path, upper, removed):
            again = before.in_layers(path)
            if again is not None:  # the directory that had it was renamed, and has come back
                changes.append(again)
                added += 1
                size_added += again.size
            continue
        gone[path] = None
        if old is not None:
            changes.append(Removal(path))
            added -= 1
            size_added -= old.size
            files += old.kind != "dir"
    if total + added > limits.max_entries:
        raise too_many(limits)
    return Scan(changes, shown, files, size, tuple(upper.skipped), added, size_added), {**gone, **shown}


class _Before:
    """What the mount showed when it was last in step, by path, and what the layers show. Looks each path up once."""

    def __init__(self, view: View, known: Changed) -> None:
        self._view = view
        self._known = known
        self._found: dict[str, Entry | None] = {}

    def entry(self, path: str) -> Entry | None:
        if path in self._known:
            found = self._known[path]
            return None if found is None else found.entry
        return self.in_layers(path)

    def in_layers(self, path: str) -> Entry | None:
        if path not in self._found:
            above = path.rpartition("/")[0]
            is_below_nothing = above in self._found and self._found[above] is None
            self._found[path] = None if is_below_nothing else self._view.entry(path)
        return self._found[path]

    def known(self, path: str) -> Known | None:
        """Return what is known of a path with its stamp, if it has one."""
        return self._known.get(path)


def _read(root: int, before: _Before, keep: Keep | None, limits: ScanLimits) -> _Upper:
    upper = _Upper()
    for found in walk(root, upper.skipped):
        if len(upper.entries) >= limits.max_entries:
            raise too_many(limits)
        try:
            if is_whiteout(found.status):
                upper.removed.append(found.path)
                continue
            now = look(found, before.known(found.path), keep, limits, upper.skipped)
            if now is not None and stat.S_ISDIR(found.status.st_mode):
                upper.sources[found.path] = _source(found, upper.sources)
        except FileNotFoundError:
            continue
        except OSError as error:
            upper.skipped.append(Skipped(found.path, f"cannot be read ({error.strerror})"))
            continue
        if now is not None:
            upper.entries[found.path] = now
    return upper


def _source(found: Found, sources: Mapping[str, str | None]) -> str | None:
    """Return the directory of the layers that a directory of the upper one shows, too."""
    above = found.path.rpartition("/")[0]
    notes = f"/proc/self/fd/{found.directory}/{found.name}"
    names = os.listxattr(notes, follow_symlinks=False)
    if OPAQUE in names:
        return None
    source = sources.get(above)
    if REDIRECT in names:
        target = os.fsdecode(os.getxattr(notes, REDIRECT, follow_symlinks=False))
        if target.startswith("/"):
            return target.strip("/")
        return None if source is None else _joined(source, target)
    return None if source is None else _joined(source, found.name)


def _moved(view: View, upper: _Upper) -> Iterator[tuple[str, Known]]:
    """Yield what renamed directories show of the layers, at its new paths."""
    removed = set(upper.removed)
    for path, source in upper.sources.items():
        above = path.rpartition("/")[0]
        if source is None or not path or source == path:
            continue
        if (came := upper.sources.get(above)) is not None and source == _joined(came, path.rpartition("/")[2]):
            continue  # it was renamed with the directory above it, whose entries are all of these
        for entry in view.below(source):
            target = path + entry.path[len(source) :]
            if target not in upper.entries and not _is_covered(target, path, entry.path, upper, removed):
                yield target, Known(replace(entry, path=target), None)


def _is_covered(target: str, top: str, source: str, upper: _Upper, removed: set[str]) -> bool:
    """Whether something of the upper directory at or above `target`, below `top`, hides the layers' entry there."""
    if target in removed:
        return True
    for above in parents(target):
        if len(above) <= len(top):
            continue
        if above in removed:
            return True
        if above in upper.sources:
            if upper.sources[above] != source[: len(source) - (len(target) - len(above))]:
                return True
        elif above in upper.entries:
            return True
    return False


def _hidden(view: View, upper: _Upper, known: Changed, before: _Before) -> Iterator[str]:
    """Yield the paths that the mount may not show any more, and those that it did not show; some of them twice.

    What an entry hides is in `known` once the entry is.
    """
    yield from known
    for path in upper.removed:
        yield path
        if path not in known or known[path] is not None:
            yield from (entry.path for entry in view.below(path))
    for path, now in upper.entries.items():
        is_directory = now.entry.kind == "dir"
        above = path.rpartition("/")[0]
        if (is_directory and upper.sources[path] == path) or upper.sources.get(above) != above:
            continue  # it hides nothing, or what it hides is hidden with the directory above
        was = known.get(path)
        if not is_directory and was is not None and was.entry.kind != "dir":
            continue
        in_layers = before.in_layers(path)
        if in_layers is not None and in_layers.kind == "dir":
            yield from (entry.path for entry in view.below(path))


def _joined(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
