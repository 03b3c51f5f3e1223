"""Starts a program on a root file system with this machine's network: a RUN step, or a function's container."""

import marshal
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError
from workbench.local_cloud.base.system_root import system_python
from workbench.local_cloud.rootfs import first_process, launcher
from workbench.local_cloud.rootfs.host_python import compiled, mount_host_python, started_by_host_python
from workbench.local_cloud.rootfs.ids import give_to_root_inside
from workbench.local_cloud.rootfs.layers import Root, order_descriptor
from workbench.local_cloud.rootfs.mounting import MARSHAL_VERSION, MAX_PROCESSES, MERGED, Places, Word, isolated, order

_FIRST = "/__modal/first_process.py"
_SHARED_MEMORY_BYTES = 512 * 1024 * 1024  # as much as a sandbox has: the rest of /dev is read-only


def command(order: int) -> list[str]:
    """Return the argv that starts a launcher for the order that a descriptor holds. Raises IsolationUnavailableError.

    It must be started with an empty environment, since it begins outside.
    """
    python = system_python()
    if python is None:
        raise IsolationUnavailableError("There is no python3 below /usr. Run: sudo apt-get install -y python3")
    return [python, "-I", "-S", launcher.__file__, str(order)]


@contextmanager
def ordered(
    root: Root,
    places: Places,
    words: Sequence[Word],
    *,
    env: Mapping[str, str],
    seccomp: bytes,
    owner: int,
    made: int | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """Give the descriptor of a launcher's order, and all that must go with it: a program with this machine's network.

    `env` is the program's own, which may come from the image: it could choose what the host's loader loads. Process 1
    is ours, see `first_process`. `words` are bubblewrap's further options and, after "--", the program; `places` those
    that they count; `seccomp` is the filter, and `owner` the user that owns the namespace when the cloud is root.
    `made` is as for `mounting.order`, and the caller's to hand on. Raises IsolationUnavailableError.
    """
    inside = marshal.dumps([(os.fsencode(name), os.fsencode(value)) for name, value in env.items()], MARSHAL_VERSION)
    first = compiled(Path(first_process.__file__), _FIRST)
    descriptors = [order_descriptor(content) for content in (seccomp, inside, first)]
    options, program = list(words[: words.index("--")]), list(words[words.index("--") + 1 :])
    try:
        argv = [*isolated(places, hostname="modal"), "--die-with-parent", "--as-pid-1"]
        argv += ["--clearenv", "--setenv", "LC_ALL", "C"]  # any other locale is read from the image's files
        argv += ["--seccomp", str(descriptors[0]), "--bind", MERGED, "/"]
        argv += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(_SHARED_MEMORY_BYTES)]
        argv += ["--tmpfs", "/dev/shm", "--remount-ro", "/dev", *options, *mount_host_python(places)]  # noqa: S108  # inside
        argv += ["--perms", "0444", "--ro-bind-data", str(descriptors[2]), places.file(_FIRST)]
        argv += ["--", *started_by_host_python(), _FIRST, str(descriptors[1]), *program]
        root = _with_mount_points(root, places)
        content = order(root, places, argv, owner=owner, processes=MAX_PROCESSES, made=made)
        descriptors.append(order_descriptor(content))
        yield descriptors[-1], descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _with_mount_points(root: Root, places: Places) -> Root:
    """Return a root with one more layer at the bottom, on which everything that is mounted finds its place.

    So nothing is left of the places in what is written to the root, where the launcher would have to make them. The
    layer goes with the root.
    """
    points = root.store / Path(root.upper).parent / "points"
    kinds = {f"/{name}": "directory" for name in launcher.OWN}
    for path, kind, _ in places.found:
        path = posixpath.normpath(f"/{path.lstrip('/')}")
        kinds[f"/{launcher.HIDDEN}" if path.startswith(f"/{launcher.HIDDEN}/") else path] = kind
    kinds[f"/{launcher.HIDDEN}"] = "directory"
    for path, kind in kinds.items():
        with suppress(OSError):  # what cannot be made here is refused by the launcher, with the reason
            _make(points, [part for part in path.split("/") if part], is_file=kind != "directory")
    give_to_root_inside(points)
    return replace(root, lower=(*root.lower, f"{Path(root.upper).parent}/points"))


def _make(here: Path, parts: Sequence[str], *, is_file: bool) -> None:
    """Make a directory or an empty file below a directory, whatever the umask is."""
    for number, part in enumerate(["", *parts]):
        here = here / part
        if here.exists():
            continue
        if is_file and number == len(parts):
            here.touch()
            here.chmod(0o644)
        else:
            here.mkdir()
            here.chmod(0o755)
