"""The program of `Sandbox.filesystem.watch` inside a sandbox: prints changes below a path, one JSON object per line.

It uses inotify, or polls where that is not available. It ends when its stdin is closed, after `timeout_secs`, or when
nobody reads its stdout any more. It runs as the guest, under the system's own Python with nothing but its standard
library.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import stat
import struct
import sys
import time

TYPE_CHECKING = False  # typing itself is a slow import
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

MAX_DIRECTORIES = 8192  # the kernel's usual limit of watches per user
MAX_POLLED = 50_000
POLL_S = 0.25
PAIR_S = 0.05  # the two events of a rename come within this time
EVENT = struct.Struct("iIII")
ACCESS, MODIFY, ATTRIB, MOVED_FROM, MOVED_TO = 0x1, 0x2, 0x4, 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x100, 0x200, 0x400, 0x800
OVERFLOW, IGNORED, ONLYDIR, ISDIR = 0x4000, 0x8000, 0x1000000, 0x40000000
CHANGES = MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF

LIBC = ctypes.CDLL(None, use_errno=True)


class Watch:
    """A watched file or directory, and the filter and timeout of its events."""

    def __init__(self, path: str, *, recursive: bool, kinds: list[str] | None, timeout_s: float | None) -> None:
        self.recursive = recursive
        self.kinds = None if kinds is None else frozenset(kinds)
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.root = os.path.realpath(path)  # a link is followed, and printed paths are below its target
        found = os.stat(self.root)
        self.only = None if stat.S_ISDIR(found.st_mode) else self.root
        # A file is watched from its directory: programs replace files more often than they change them.
        self.top = self.root if self.only is None else os.path.dirname(self.root)

    def run(self) -> None:
        """Print events until the program ends, by inotify if possible."""
        try:
            Inotify(self).run()
        except PermissionError:
            raise
        except OSError:  # no inotify here, or its limits are used up
            self.poll()

    def tell(self, kind: str, *paths: str) -> None:
        """Print an event, unless the filter excludes it; the SDK treats every kind of rename as Modify."""
        if (self.kinds is not None and kind not in self.kinds) or (self.only is not None and self.only not in paths):
            return
        line = memoryview((json.dumps({"event_type": kind, "paths": list(paths)}) + "\n").encode())
        while line:
            self.wait(writing=True)
            line = line[os.write(1, line[: select.PIPE_BUF]) :]

    def wait(self, *others: int, seconds: float | None = None, writing: bool = False) -> bool:
        """Wait for one of the descriptors `others` or, with `writing`, for stdout; False after `seconds`.

        Ends the program when stdin is closed or its timeout has passed.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            ends = [end for end in (until, self.deadline) if end is not None]
            left = max(min(ends) - time.monotonic(), 0) if ends else None
            readable, writable, _ = select.select([0, *others], [1] if writing else [], [], left)
            if 0 in readable and not os.read(0, 4096):
                leave()
            if self.deadline is not None and time.monotonic() >= self.deadline:
                leave()
            if writable or set(readable) - {0}:
                return True
            if until is not None and time.monotonic() >= until:
                return False

    def poll(self) -> None:
        """Print events by comparing what is there every 0.25 s."""
        before = self.look()
        while True:
            self.wait(seconds=POLL_S)
            now = self.look()
            for path in sorted(before.keys() | now.keys()):
                if path not in before:
                    self.tell("Create", path)
                elif path not in now:
                    self.tell("Remove", path)
                elif before[path] != now[path]:
                    self.tell("Modify", path)
            before = now

    def look(self) -> dict[str, tuple[int, ...]]:
        """Return what changes with each entry, by path, of at most 50,000 entries."""
        found: dict[str, tuple[int, ...]] = {}
        for directory in self.directories(self.top):
            for path in entries(directory):
                try:
                    status = os.lstat(path)
                except OSError:
                    continue
                found[path] = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
                if stat.S_ISDIR(status.st_mode):
                    found[path] = (status.st_ino, status.st_mode)
                if len(found) >= MAX_POLLED:
                    return found
        return found

    def directories(self, top: str) -> Iterator[str]:
        """Yield a directory and, in a recursive watch, those below it."""
        yield top
        if self.recursive and self.only is None:
            for directory, names, _ in os.walk(top):
                for name in names:
                    if not os.path.islink(os.path.join(directory, name)):
                        yield os.path.join(directory, name)


class Inotify:
    """Turns inotify's events into those of a `Watch`. Raises OSError when inotify cannot be used."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.descriptor = checked(LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self.paths: dict[int, str] = {}
        self.announced: set[str] = set()  # paths in a new directory that were printed before their events came
        self.mask = CHANGES | ONLYDIR | (ACCESS if "Access" in (watch.kinds or ()) else 0)
        for directory in watch.directories(watch.top):
            self.add(directory, first=directory == watch.top)

    def add(self, directory: str, *, first: bool = False) -> None:
        """Watch a directory. One that is gone meanwhile is skipped, unless it is the `first`."""
        if len(self.paths) >= MAX_DIRECTORIES:
            raise OSError("more directories than can be watched")
        number = LIBC.inotify_add_watch(self.descriptor, os.fsencode(directory), ctypes.c_uint32(self.mask))
        if number >= 0:
            self.paths[number] = directory
        elif first or ctypes.get_errno() == 28:  # ENOSPC: the limit of watches is reached
            checked(number)

    def run(self) -> None:
        """Read events and print them, until the program ends."""
        waiting: tuple[int, str] | None = None  # the first event of a rename: its cookie and path
        while True:
            if not self.watch.wait(self.descriptor, seconds=None if waiting is None else PAIR_S):
                assert waiting is not None
                self.watch.tell("RenameFrom", waiting[1])
                waiting = None
                continue
            for number, mask, cookie, name in self.events():
                if waiting is not None and not (mask & MOVED_TO and cookie == waiting[0]):
                    self.watch.tell("RenameFrom", waiting[1])
                    waiting = None
                if mask & OVERFLOW:
                    self.watch.tell("Unknown", self.watch.root)
                elif mask & IGNORED:
                    self.paths.pop(number, None)
                elif number in self.paths:
                    directory = self.paths[number]
                    path = os.path.join(directory, name) if name else directory
                    if mask & MOVED_FROM:
                        waiting = (cookie, path)
                    elif mask & MOVED_TO and waiting is not None:
                        self.watch.tell("Rename", waiting[1], path)
                        waiting = None
                    else:
                        self.one(mask, path, own=not name)
                    self.follow(mask, path)

    def one(self, mask: int, path: str, *, own: bool) -> None:
        """Print one event of a path; `own` says that it is about the watched directory itself."""
        if own and path != self.watch.top:
            return  # a directory below the top: the same event comes from its parent
        if mask & CREATE:
            if path in self.announced:
                self.announced.discard(path)
            else:
                self.watch.tell("Create", path)
        elif mask & MOVED_TO:
            self.watch.tell("RenameTo", path)
        elif mask & MOVE_SELF:
            self.watch.tell("RenameFrom", path)
        elif mask & (DELETE | DELETE_SELF):
            self.watch.tell("Remove", path)
        elif mask & (MODIFY | ATTRIB) and not own:
            self.watch.tell("Modify", path)
        elif mask & ACCESS and not own:
            self.watch.tell("Access", path)

    def follow(self, mask: int, path: str) -> None:
        """Begin to watch new directories, and stop watching those that were moved away."""
        if not (mask & ISDIR and self.watch.recursive and self.watch.only is None):
            return
        if mask & MOVED_FROM:
            for number, directory in list(self.paths.items()):
                if directory == path or directory.startswith(path + "/"):
                    del self.paths[number]
                    LIBC.inotify_rm_watch(self.descriptor, number)
        elif mask & MOVED_TO:
            for directory in self.watch.directories(path):
                self.add(directory)
        elif mask & CREATE:
            self.announced.clear()
            for directory in self.watch.directories(path):
                self.add(directory)
                for found in entries(directory):
                    self.announced.add(found)
                    self.watch.tell("Create", found)

    def events(self) -> Iterator[tuple[int, int, int, str]]:
        """Yield the events that have arrived, as (watch number, mask, cookie, name)."""
        data = os.read(self.descriptor, 64 * 1024)
        while data:
            number, mask, cookie, length = EVENT.unpack_from(data)
            name = data[EVENT.size : EVENT.size + length].rstrip(b"\0")
            data = data[EVENT.size + length :]
            yield number, mask, cookie, os.fsdecode(name)


def entries(directory: str) -> list[str]:
    """Return the paths in a directory, sorted; empty when it cannot be read."""
    try:
        return sorted(os.path.join(directory, name) for name in os.listdir(directory))
    except OSError:
        return []


def checked(result: int) -> int:
    """Return the result of a call of libc; raises OSError if it is negative."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def leave() -> NoReturn:
    """End the program with exit code 0."""
    os._exit(0)


def main() -> int:
    """Watch as the JSON in the first argument says; prints an error as the SDK reads it."""
    arguments = json.loads(sys.argv[1])
    kind, message = "Other", ""
    try:
        Watch(
            arguments["path"],
            recursive=bool(arguments["recursive"]),
            kinds=arguments["filter"],
            timeout_s=arguments["timeout_secs"],
        ).run()
    except BrokenPipeError:
        return 0
    except FileNotFoundError:
        kind, message = "NotFound", "no such file or directory"
    except PermissionError:
        kind, message = "PermissionDenied", "permission denied"
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = str(error)
    sys.stderr.write(json.dumps({"error_kind": kind, "message": message}))
    return 1


if __name__ == "__main__":
    sys.exit(main())
