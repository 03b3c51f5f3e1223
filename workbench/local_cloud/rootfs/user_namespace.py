"""The user namespace of an ordinary user's cloud, which may mount there what its sandboxes see.

Every user in it is the same user outside. Three things differ: a setuid program such as `newuidmap` has no effect, the
files of users who are not in it seem to be nobody's, and only this process, not what it starts, has rights over it. So
the ids of the namespaces below it are written by this process, and a process that stays outside tells owners of files.
"""

import json
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

import structlog

from workbench.local_cloud.rootfs import launcher

_log = structlog.get_logger(__name__)

Rows = Mapping[str, Sequence[Sequence[int]]]  # for "uid" and "gid": (first id inside, first id outside, how many)

_SOCKET = "maps"
_TIMEOUT_S = 20.0
_KEPT = 3  # the one descriptor of the process outside, after the standard ones
_MS_SLAVE = 1 << 19
_CREDENTIALS = struct.Struct("3i")  # pid, uid and gid of who has connected
_COULD_NOT = "the user namespace of the local cloud has no ids"


class _Here:
    """What this process knows of its own namespace; there is one per process."""

    lock = threading.Lock()
    outside: IO[str] | None = None
    maps_at = ""


def enter(rows: Rows | None) -> None:
    """Move this process into a user namespace and mounts of its own; what is mounted by the host still appears there.

    The users are this one and those of `rows`, if there are any: what `ids` gives. To be called before any thread is
    started. Raises OSError; LaunchError when this process has ids no more, and cannot go on.
    """
    uid, gid = os.getuid(), os.getgid()
    ids = {"uid": [[uid, uid, 1]], "gid": [[gid, gid, 1]]}
    asked = None
    if rows is not None:
        ids = {kind: [[outside, outside, count] for _, outside, count in rows[kind]] for kind in ("uid", "gid")}
        asked = _start_outside()
    launcher.call("unshare", launcher.LIBC.unshare(launcher.CLONE_NEWUSER | launcher.CLONE_NEWNS))
    if asked is not None:
        if said := _ask(asked, {"map": os.getpid(), "ids": ids}):
            raise launcher.LaunchError(f"{_COULD_NOT} ({said})")
        _Here.outside = asked
    else:
        Path("/proc/self/setgroups").write_text("deny")
        launcher.write_maps(os.getpid(), ids, as_root=True)
    launcher.call("mount", launcher.mount(b"none", "/", None, launcher.MS_REC | _MS_SLAVE, None))


def write_maps(rows: Rows, directory: Path) -> None:
    """From now on, write the maps of the namespaces that this process's own programs make for root file systems.

    They ask for it at a socket in `directory`, which only this user may enter. A thread does it as long as this process
    runs.
    """
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{opened}/{_SOCKET}")  # short, however long the directory's own path is
    os.close(opened)
    listener.listen(64)
    _Here.maps_at = str(directory / _SOCKET)
    threading.Thread(target=_serve, args=(listener, rows), name="id maps", daemon=True).start()


def maps_at() -> str:
    """Return the path of the socket of `write_maps`, "" when programs of this process may write maps themselves."""
    return _Here.maps_at


def owners(paths: Iterable[str]) -> list[tuple[int, int] | None]:
    """Return (user id, group id) of each path itself as it is outside, None for one that cannot be read."""
    if _Here.outside is None:
        return [_owner(path) for path in paths]
    with _Here.lock:
        found = _ask(_Here.outside, {"owners": list(paths)})
    return [None if owner is None else (owner[0], owner[1]) for owner in found]


def _owner(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_uid, status.st_gid


def _serve(listener: socket.socket, rows: Rows) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            _log.warning("namespace.no_maps", error=str(error))
            return
        with connection:
            try:
                connection.settimeout(_TIMEOUT_S)
                _write(connection, rows)
            except (OSError, ValueError) as error:
                with suppress(OSError):
                    connection.sendall(str(error).encode())


def _write(connection: socket.socket, rows: Rows) -> None:
    """Write the map of the process whose id comes, as `newuidmap` would. Raises OSError, ValueError."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(credentials)[1] != os.getuid():
        raise PermissionError("only the user of the local cloud may ask")
    launcher.write_maps(int(connection.recv(20)), rows, as_root=True)
    connection.sendall(b".")


def _start_outside() -> IO[str]:
    """Start the process that stays outside, and return the connection to it; it ends when this process does."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        try:
            _stay_outside(theirs.fileno())
        finally:
            os._exit(1)
    theirs.close()
    with ours:
        return ours.makefile("rw", encoding="ascii")


def _stay_outside(connection: int) -> NoReturn:
    """Answer until the other end is closed. Nothing else that the starting process had open is kept."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)
    os.dup2(connection, _KEPT)
    os.closerange(_KEPT + 1, os.sysconf("SC_OPEN_MAX"))
    for number in range(_KEPT):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    with socket.socket(fileno=_KEPT) as kept, kept.makefile("rw", encoding="ascii") as stream:
        for line in stream:
            stream.write(json.dumps(_answer(json.loads(line))) + "\n")
            stream.flush()
    os._exit(0)


def _answer(asked: dict[str, Any]) -> Any:
    if "owners" in asked:
        return [_owner(path) for path in asked["owners"]]
    try:
        launcher.write_maps(asked["map"], asked["ids"], as_root=False)
    except (OSError, launcher.LaunchError) as error:
        return str(error) or "failed"
    return ""


def _ask(outside: IO[str], question: dict[str, Any]) -> Any:
    outside.write(json.dumps(question) + "\n")
    outside.flush()
    if not (line := outside.readline()):
        raise OSError("the process outside of the local cloud's namespace has ended")
    return json.loads(line)
