"""Starts a program on a root file system of its own, as root inside and as nobody outside.

Runs as a script under the system's Python, with nothing but its standard library, and becomes the program: it makes a
user namespace with a range of ids, mounts the layers there as one overlay, makes the places of further mounts, and
executes bubblewrap, which it hands the merged root. The order of the calls matters; each says why.

Its one argument is the number of a descriptor that holds the order, which `mounting` writes by `marshal`: json,
subprocess and signal would take longer to import than everything that is done here. Or it is that of a socket, at which
the launcher waits for the order and the descriptors that go with it: then it has started before anybody needs it.
"""

from __future__ import annotations

import _socket
import ctypes
import fcntl
import marshal
import os
import resource
import stat
import struct
import sys

TYPE_CHECKING = False  # typing itself is a slow import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_REC, MS_PRIVATE, MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 0x4000, 0x40000, 1, 2, 4, 0x20, 0x1000
OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT = 428, 429, 430, 431, 432  # the same numbers on every processor
SET_FLAG, SET_STRING, CREATE = 0, 1, 6
OPEN_TREE_CLONE = 1
EMPTY_PATH = 4  # MOVE_MOUNT_F_EMPTY_PATH
AT_FDCWD = -100
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
MAX_DESCRIPTORS = 200  # that go with an order; the kernel passes 253
MAX_NUMBERS = 64 * 1024  # bytes of the message that tells their numbers
SIGKILL = 9
ASK_S = 20  # for the local cloud to write the map of ids
PLACE = "/mnt"  # where the merged root is, on a file system in memory that only this namespace sees
MERGED = f"{PLACE}/root"
OWN = ("proc", "dev")  # at the top, what bubblewrap mounts there itself: no image's and no host's file
HIDDEN = "__modal"  # at the top, what is ours alone: process 1 would heed an image's files there
LOADER_FILES = (b"/etc/ld.so.preload\0", b"/etc/ld.so.cache\0")
MAX_LINKS = 40
MAX_MADE = 1000  # of the paths that are told
OPEN_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

LIBC = ctypes.CDLL(None, use_errno=True)


class LaunchError(Exception):
    """A step failed; the message is a sentence that says which."""


def main() -> NoReturn:
    """Read the order, carry it out, and become bubblewrap; exits with 125 and a sentence on stderr if that fails."""
    try:
        given = int(sys.argv[1])
        with os.fdopen(received(given) if stat.S_ISSOCK(os.fstat(given).st_mode) else given, "rb") as file:
            order = marshal.loads(file.read())  # noqa: S302  # ours
        os.chdir(order["store"])  # entered now: inside, the directories above may be out of reach
        as_root = order["owner"] is not None
        spare_nobody()
        os.nice(order["niceness"])
        lower = [detach(path, as_root=as_root) if path[0] == "/" else path for path in order["lower"]]
        sources = [path if own else detach(path, as_root=as_root) for path, own in order["sources"]]
        enter(order["ids"], owner=order["owner"], processes=order["processes"])
        merge(lower, order["upper"], order["work"])
        places = Places(MERGED)
        for plain in OWN:
            places.plain(plain)
        if any(path.startswith(f"/{HIDDEN}/") for path, _, _ in order["places"]):
            places.hide(HIDDEN)
        loaders = [own for _, own in order["sources"]]
        attached = [
            own_loader(str(source)) if own else attach(source, number)
            for number, (source, own) in enumerate(zip(sources, loaders, strict=True))
        ]
        found = []
        for path, kind, source in order["places"]:
            found.append(places.make(path, kind))
            if source is not None and kind == "directory":
                places.mount(found[-1], attached[source])
        places.close()
        if order["made"] is not None:
            with open(order["made"], "wb") as file:  # closed before anything of the image starts
                file.write(b"\0".join(map(os.fsencode, places.made)))
        argv = fill(order["argv"], found, attached)
        os.execv(argv[0], argv)  # noqa: S606  # no shell is the point
    except LaunchError as error:
        text = str(error)
    except OSError as error:
        text = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    os.write(2, f"the root file system cannot be mounted: {text}\n".encode("utf-8", "replace"))
    os._exit(125)


def received(channel: int) -> int:
    """Wait for an order at a socket; returns the descriptor that holds it. Ends with the socket's other end.

    The message tells the numbers that the descriptors shall have here, which the order's argv names; that of the order
    is the first. Raises OSError.
    """
    die_with(os.getppid())
    waiting = _socket.socket(fileno=channel)
    data, passed, _, _ = waiting.recvmsg(MAX_NUMBERS, _socket.CMSG_SPACE(MAX_DESCRIPTORS * 4))
    waiting.close()
    if not data:
        os._exit(0)
    numbers = marshal.loads(data)  # noqa: S302  # ours
    found = [descriptor for _, _, packed in passed for (descriptor,) in struct.iter_unpack("i", packed)]
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, max(numbers) + 1) for descriptor in found]
    for descriptor in found:
        os.close(descriptor)
    for number, descriptor in zip(numbers, aside):  # noqa: B905  # as many, or the order cannot be carried out
        os.dup2(descriptor, number, inheritable=True)
        os.close(descriptor)
    return int(numbers[0])


def spare_nobody() -> None:
    """Let no program be spared when memory runs out, if the kernel permits it."""
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
            file.write(str(max(0, int(file.read()))).encode())  # of root, also the least that programs may choose
    except OSError:
        pass


def enter(ids: dict[str, Any], *, owner: int | None, processes: int | None = None) -> None:
    """Move this process into a user and a mount namespace of its own, in which it is root.

    `ids` are rows of (first id inside, first id outside, how many) for "uid" and "gid". `owner` is the unprivileged
    user that owns the namespace when the caller is root; None otherwise, and then the map is written by who listens at
    `ids["at"]`, or by `newuidmap` if that is empty. `processes` bounds those of all users inside together.

    The kernel counts the processes of a namespace for the user that has made it, in the namespace where that user is.
    Outside, that count would be shared: with the same user's other sandboxes, with those of another cloud, with all
    that an ordinary user runs. So the namespace is made inside of another one, in which there is nothing else.

    Raises LaunchError, OSError.
    """
    parent = os.getppid()
    this = os.getpid()

    def outside() -> None:
        if owner is None and ids["at"]:
            ask_for_maps(this, ids["at"])
        else:
            write_maps(this, ids, as_root=owner is not None)

    def become_owner() -> None:
        if owner is not None:
            os.setgroups([])
            os.setresgid(owner, owner, owner)
            os.setresuid(owner, owner, owner)

    if processes is None:
        unshare(CLONE_NEWUSER | CLONE_NEWNS, write=outside, first=become_owner)
    else:
        same = {kind: [(inside, inside, count) for inside, _, count in ids[kind]] for kind in ("uid", "gid")}
        unshare(CLONE_NEWUSER, write=outside, first=become_owner)
        become_root()
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # the change of ids has taken it back, and with it the file of the map
        unshare(
            CLONE_NEWUSER | CLONE_NEWNS,
            write=lambda: write_maps(this, same, as_root=True),
            first=lambda: limit(processes),
        )
        LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    become_root()
    die_with(parent)  # a change of ids has taken it back
    call("mount", mount(b"none", "/", None, MS_REC | MS_PRIVATE, None))
    with open("/proc/sys/user/max_user_namespaces", "wb", buffering=0) as file:
        file.write(b"0")  # no program inside can make another one, and none has the right to raise it again


def unshare(kinds: int, *, write: Callable[[], None], first: Callable[[], None]) -> None:
    """Move this process into new namespaces, of which one is of users, after `first`.

    A child that stays outside writes the map of ids by `write`. Raises LaunchError, OSError.
    """
    ready_read, ready_write = os.pipe()
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            os.close(ready_write)
            if os.read(ready_read, 1) == b".":
                write()
                code = 0
        except BaseException as error:  # noqa: BLE001  # a forked child must not return into the caller
            os.write(2, f"{error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(code)
    os.close(ready_read)
    try:
        first()
        call("unshare", LIBC.unshare(kinds))
        os.write(ready_write, b".")
    finally:
        os.close(ready_write)
        _, status = os.waitpid(helper, 0)
    if status:
        raise LaunchError("the range of user ids cannot be mapped")


def become_root() -> None:
    """Become root of the user namespace that this process is in. Raises OSError."""
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)


def limit(processes: int) -> None:
    """Bound the processes of the next user namespace that is made from here. Raises OSError."""
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)
    bound = processes if most == resource.RLIM_INFINITY else min(processes, most)
    resource.setrlimit(resource.RLIMIT_NPROC, (bound, bound))


def die_with(parent: int) -> None:
    """Have this process killed when its parent ends, or end now if that has happened. Raises LaunchError."""
    LIBC.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise LaunchError("the local cloud has ended")


def write_maps(pid: int, ids: Any, *, as_root: bool) -> None:
    """Give a process that waits in a new user namespace its ids. Raises OSError, LaunchError.

    `as_root` is for who has the rights to it in the namespace above; else `newuidmap` has them.
    """
    for kind in ("uid", "gid"):
        if as_root:
            with open(f"/proc/{pid}/{kind}_map", "wb", buffering=0) as file:
                file.write("\n".join(" ".join(map(str, row)) for row in ids[kind]).encode())
        else:
            words = [str(number) for row in ids[kind] for number in row]
            import subprocess  # only an ordinary user waits for it

            done = subprocess.run([f"new{kind}map", str(pid), *words], capture_output=True, text=True, check=False)
            if done.returncode:
                raise LaunchError(done.stderr.strip()[:300])


def ask_for_maps(pid: int, place: str) -> None:
    """Have the local cloud, which has the rights to it, give a process its ids. Raises OSError, LaunchError."""
    import socket  # only an ordinary user waits for it

    directory, _, name = place.rpartition("/")
    opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ASK_S)
        connection.connect(f"/proc/self/fd/{opened}/{name}")
        connection.sendall(str(pid).encode())
        said = connection.recv(300)
    if said != b".":
        raise LaunchError(said.decode("utf-8", "replace") or "the local cloud has ended")


def merge(lower: Sequence[int | str], upper: str, work: str) -> None:
    """Mount directories as one root file system at `MERGED`. Raises OSError.

    Each is below the working directory, or what `detach` has returned for an absolute path.
    """
    call("mount", mount(b"none", PLACE, b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755,size=1m"))
    os.mkdir(MERGED)
    context = call("fsopen", LIBC.syscall(FSOPEN, b"overlay", 1))
    flags = ["userxattr", "volatile"] if upper else ["userxattr"]  # volatile: an end must not sync the whole disk
    for flag in flags:
        configure(context, SET_FLAG, flag.encode(), None)
    for number, directory in enumerate(lower):
        configure(context, SET_STRING, b"lowerdir+", beside(directory, number).encode())
    if upper:
        configure(context, SET_STRING, b"upperdir", upper.encode())
        configure(context, SET_STRING, b"workdir", work.encode())
    configure(context, CREATE, None, None)
    merged = call("fsmount", LIBC.syscall(FSMOUNT, context, 1, MS_NODEV))
    call("move_mount", LIBC.syscall(MOVE_MOUNT, merged, b"", AT_FDCWD, MERGED.encode(), EMPTY_PATH))
    os.close(merged)
    os.close(context)


def beside(directory: int | str, number: int) -> str:
    """Return a path that says nothing of the host's for a layer, which is mounted there if need be. Raises OSError."""
    if isinstance(directory, str) and directory[0] != "/":
        return directory
    place = f"{PLACE}/lower-{number}"
    os.mkdir(place)
    if isinstance(directory, str):
        call("mount", mount(os.fsencode(directory), place, None, MS_BIND, None))
    else:
        call("move_mount", LIBC.syscall(MOVE_MOUNT, directory, b"", AT_FDCWD, place.encode(), EMPTY_PATH))
        os.close(directory)
    return place


def detach(path: str, *, as_root: bool) -> int | str:
    """Return what `attach` needs to mount a file or directory of the host inside. Raises OSError.

    Root takes a mount of it along, since the user that it becomes may not be able to reach the path.
    """
    if not as_root:
        return path
    return call(f"open_tree {path}", LIBC.syscall(OPEN_TREE, AT_FDCWD, path.encode(), OPEN_TREE_CLONE | os.O_CLOEXEC))


def attach(source: int | str, number: int) -> str:
    """Mount what `detach` has returned at a place of its own beside the merged root, and return its path there."""
    if isinstance(source, str):
        return source
    place = f"{PLACE}/source-{number}"
    if stat.S_ISDIR(os.fstat(source).st_mode):
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL, 0o644))
    call("move_mount", LIBC.syscall(MOVE_MOUNT, source, b"", AT_FDCWD, place.encode(), EMPTY_PATH))
    os.close(source)
    return place


def own_loader(path: str) -> str:
    """Write a copy of the host's loader that looks for none of the image's files, and return its path.

    The image's list of libraries to load into every program would be loaded into process 1. Raises LaunchError.
    """
    with open(path, "rb") as file:
        content = file.read()
    for name in LOADER_FILES:
        if name not in content:
            raise LaunchError(f"the host's loader {path} does not name {name[:-1].decode()}")
        content = content.replace(name, b"/proc/no/such/file"[: len(name) - 1].ljust(len(name), b"\0"))
    place = f"{PLACE}/loader"
    with open(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o755), "wb") as file:
        file.write(content)
    return place


def configure(context: int, command: int, key: bytes | None, value: bytes | None) -> None:
    """Set one option of a file system that is about to be mounted. Raises LaunchError with the kernel's own words."""
    if LIBC.syscall(FSCONFIG, context, command, key, value, 0) != 0:
        number = ctypes.get_errno()
        try:
            said = os.read(context, 500).decode("utf-8", "replace").strip()
        except OSError:
            said = ""
        raise LaunchError(f"overlay {(key or b'').decode()}: {said or os.strerror(number)}")


def mount(source: bytes, target: str, kind: bytes | None, flags: int, data: bytes | None) -> int:
    """Mount; the result is for `call`."""
    return int(LIBC.mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), data))


def call(name: str, result: int) -> int:
    """Return what a system call returned; raises OSError if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


class Places:
    """Makes the files and directories on which something is mounted, without leaving the merged root.

    The image decides what links are on the way. They are followed as inside, from the image's own root; bubblewrap,
    which would follow them outside, gets the path that is left. No path leads into what bubblewrap mounts itself: its
    /proc has links to the host's root.
    """

    def __init__(self, root: str) -> None:
        self.path = root
        self.root = os.open(root, OPEN_DIRECTORY)
        self.hidden: list[str] = []
        self.mounted: dict[tuple[str, ...], int] = {}
        self.made: list[str] = []  # on the root itself, as paths without links, each after those above it

    def mount(self, path: str, source: str) -> None:
        """Record that a directory of the host is mounted at a path that `make` has returned: others lie in it then."""
        self.mounted[tuple(path.split("/")[1:])] = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def hide(self, name: str) -> None:
        """Mount an empty file system over a directory at the top, which `close` makes read-only."""
        self.plain(name)
        self.hidden.append(f"{self.path}/{name}")
        call("mount", mount(b"none", self.hidden[-1], b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755,size=1m"))
        self.mount(f"/{name}", self.hidden[-1])

    def close(self) -> None:
        """Make no more places."""
        for path in self.hidden:
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
            call("mount", mount(b"none", path, None, flags, None))

    def plain(self, name: str) -> None:
        """Make a directory at the top; raises LaunchError if the image has something else of that name."""
        try:
            os.mkdir(name, 0o755, dir_fd=self.root)
            self.note([name])
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=self.root, follow_symlinks=False).st_mode):
                raise LaunchError(f"the image's /{name} is not a directory") from None

    def find(self, path: str) -> str | None:
        """Return `path` without links if it exists inside, else None. Raises LaunchError."""
        return self.walk(path, "")

    def make(self, path: str, kind: str) -> str:
        """Return `path` without links, after making it as a "directory" or "file", or a "program".

        A program replaces a link of that name, instead of what the link leads to. Raises LaunchError.
        """
        found = self.walk(path, kind)
        assert found is not None
        return found

    def walk(self, path: str, kind: str) -> str | None:
        """Follow a path inside; with an empty `kind` nothing is made, and None returned if it does not exist."""
        waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        here = os.dup(self.root)
        links = 0
        try:
            while waiting:
                name = waiting.pop()
                if name == "..":
                    done = done[:-1]
                    os.close(here)
                    here = self.reopen(done)
                    continue
                found = self.look(here, name)
                last = not waiting
                if found is not None and stat.S_ISLNK(found.st_mode):
                    if last and kind == "program":
                        os.unlink(name, dir_fd=here)
                        found = None
                    else:
                        links += 1
                        if links > MAX_LINKS:
                            raise LaunchError(f"there are too many links on the way to {path}")
                        target = os.readlink(name, dir_fd=here)
                        waiting += [part for part in reversed(target.split("/")) if part not in ("", ".")]
                        if target.startswith("/"):
                            done = []
                            os.close(here)
                            here = os.dup(self.root)
                        continue
                done.append(name)
                if kind and done[0] in OWN:
                    raise LaunchError(f"{path} leads into /{done[0]}, which is the sandbox's own")
                if not kind and (found is None or (not last and not stat.S_ISDIR(found.st_mode))):
                    return None
                if last and not kind:
                    break
                if last and kind != "directory":
                    if found is None:
                        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=here))
                        self.note(done)
                    elif not stat.S_ISREG(found.st_mode):
                        raise LaunchError(f"{path} is not a file in the image, and one is mounted there")
                    break
                if found is None:
                    os.mkdir(name, 0o755, dir_fd=here)
                    self.note(done)
                elif not stat.S_ISDIR(found.st_mode):
                    raise LaunchError(f"{path} cannot be made: /{'/'.join(done)} is not a directory in the image")
                inner = self.enter(name, done, here)
                os.close(here)
                here = inner
        finally:
            os.close(here)
        return "/" + "/".join(done)

    def note(self, parts: list[str]) -> None:
        """Record what has been made at parts, unless it is in something else that is mounted there."""
        inside = any(tuple(parts[:number]) in self.mounted for number in range(1, len(parts)))
        if not inside and len(self.made) < MAX_MADE:
            self.made.append("/".join(parts))

    def enter(self, name: str, parts: list[str], here: int) -> int:
        """Open a directory at its path `parts`, or what is mounted there."""
        mounted = self.mounted.get(tuple(parts))
        return os.dup(mounted) if mounted is not None else os.open(name, OPEN_DIRECTORY, dir_fd=here)

    def reopen(self, parts: list[str]) -> int:
        """Open the directory at parts that have been walked before."""
        here = os.dup(self.root)
        for number, part in enumerate(parts, 1):
            inner = self.enter(part, parts[:number], here)
            os.close(here)
            here = inner
        return here

    def look(self, directory: int, name: str) -> os.stat_result | None:
        """Return what is at a name of a directory, None if nothing is."""
        try:
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None


def fill(argv: list[Any], places: list[str], sources: list[str]) -> list[str]:
    """Return bubblewrap's argv with the numbers in it replaced: n is the place n, and -1 - n the source n."""
    return [word if isinstance(word, str) else places[word] if word >= 0 else sources[-1 - word] for word in argv]


if __name__ == "__main__":
    main()
