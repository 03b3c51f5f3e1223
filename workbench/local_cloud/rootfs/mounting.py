"""What the launcher is told: the ids, the layers, the places of further mounts, and bubblewrap's argv."""

import marshal
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from workbench.local_cloud.base.bubblewrap import bubblewrap
from workbench.local_cloud.rootfs import launcher
from workbench.local_cloud.rootfs.ids import ids
from workbench.local_cloud.rootfs.layers import Root

# What `useradd`, `su`, `apt-get install` and servers need, each tried alone. None of them reaches out of the namespace;
# without SYS_PTRACE no program inside can read process 1.
CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
MERGED = launcher.MERGED
MAX_PROCESSES = 8192  # of a build or a function's container, for all users inside together
MARSHAL_VERSION = 2  # a form that every Python reads: the launcher's is the system's
Word = str | int  # the number of a place, or below zero that of a source, counted from -1


class Places:
    """Collects the paths inside at which something is mounted, and what of the host is mounted there.

    Bubblewrap gets the paths inside without links, and the host's in a form that it can reach.
    """

    def __init__(self) -> None:
        self.found: list[tuple[str, str, int | None]] = []  # path, kind, and the number of the source mounted there
        self.sources: list[tuple[str, bool]] = []  # path, and whether it is the loader of `bind_loader`

    def bind(self, source: Path, target: str, *, read_only: bool) -> list[Word]:
        """Return the words that bind a file or directory of the host to a path inside."""
        self.sources.append((str(source), False))
        place = self._add(target, "directory" if source.is_dir() else "file", len(self.sources) - 1)
        return ["--ro-bind" if read_only else "--bind", -len(self.sources), place]

    def bind_loader(self, source: Path, target: str) -> list[Word]:
        """Return the words that bind a copy of the host's loader that heeds no file of the image; at most once."""
        self.sources.append((str(source), True))
        return ["--ro-bind", -len(self.sources), self.file(target)]

    def host_program(self, path: str) -> Word:
        """Return the word for a program of the host, which is started before the root is entered."""
        if os.path.realpath(path).startswith("/usr/"):
            return path
        self.sources.append((path, False))
        return -len(self.sources)

    def directory(self, path: str) -> int:
        """Return the word for a directory, which is made if it is missing."""
        return self._add(path, "directory")

    def file(self, path: str) -> int:
        """Return the word for a file, which is made if it is missing."""
        return self._add(path, "file")

    def program(self, path: str) -> int:
        """Return the word for a program that takes the place of one of the image's, also of a link."""
        return self._add(path, "program")

    def _add(self, path: str, kind: str, source: int | None = None) -> int:
        self.found.append((path, kind, source))
        return len(self.found) - 1


def made_places(descriptor: int) -> list[str]:
    """Return what a launcher has made on its root, as paths without links, each after those above it."""
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    return [os.fsdecode(path) for path in content.split(b"\0") if path]


def environment(env: Mapping[str, str]) -> bytes:
    """Return what bubblewrap's `--args` reads to give the program inside an environment, and nothing but that.

    The programs that start it must not have that environment: with LD_PRELOAD in it, an image would load its own
    library into them, outside. Nor is it for bubblewrap's argv, which every user of this machine can read.
    """
    words = ["--clearenv"]
    for name, value in env.items():
        words += ["--setenv", name, value]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def isolated(places: Places, *, hostname: str) -> list[Word]:
    """Return bubblewrap and its options for namespaces and rights that whatever runs on a root of its own has."""
    argv: list[Word] = [places.host_program(bubblewrap()), "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    argv += ["--hostname", hostname, "--unshare-cgroup-try", "--new-session", "--cap-drop", "ALL"]
    for capability in CAPABILITIES:
        argv += ["--cap-add", f"CAP_{capability}"]
    return argv


def order(
    root: Root,
    places: Places,
    argv: Sequence[Word],
    *,
    owner: int,
    processes: int,
    niceness: int = 0,
    made: int | None = None,
) -> bytes:
    """Return the launcher's order. `owner` is the user that owns the namespace when the cloud is root.

    To the descriptor `made`, the launcher writes what it makes on the root for what is mounted, see `made_places`.
    """
    return marshal.dumps(
        {
            "store": str(root.store),
            "ids": ids().as_json(),
            "owner": owner if os.geteuid() == 0 else None,
            "processes": processes,
            "niceness": niceness,
            "made": made,
            "lower": root.lower,
            "upper": root.upper,
            "work": root.work,
            "places": places.found,
            "sources": places.sources,
            "argv": list(argv),
        },
        MARSHAL_VERSION,
    )
