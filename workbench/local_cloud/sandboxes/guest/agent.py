"""Process 1 of every sandbox. Runs under the system's own Python with nothing but its standard library.

It starts programs for the host, on pipes or on a terminal, reports how they end, and forwards `sync`. First it sends
the host a listening socket of the sandbox's loopback, at which the host serves the egress proxy. It takes orders only
from the inherited socket; when that is closed, it ends, and with it every process of the sandbox.

Every sandbox waits for it to start: `contextlib`, `json`, `selectors`, `signal` and `socket` would take longer to
import than everything else, so it uses what these are made of.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the types of `signal`'s own part are not published
import _socket
import ctypes
import errno
import fcntl
import os
import resource
import select
import struct
import sys
import termios
import warnings  # noqa: F401  # of `os.execvpe`
from _json import encode_basestring_ascii, make_scanner

TYPE_CHECKING = False  # typing itself is a slow import
if TYPE_CHECKING:
    from typing import Any, NoReturn, Self

SYNC_ADDRESS = "\0workbench-sync"  # abstract, so it exists only in the sandbox's own network namespace
MAX_MESSAGE = 256 * 1024
MAX_SYNC_WAITING = 16
MAX_PROXY_WAITING = 128
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
CAPABILITY_VERSION = 0x20080522
PEER_CREDENTIALS = struct.Struct("iII")  # process, user, group
MAX_ACCOUNTS = 1 << 20  # bytes that are read of a list of users
USERS = 65_536  # how many ids there are inside
ROOT_HOME = "/root"
DESCRIPTOR_BYTES = 4
TAKEN_SIGNALS = (
    _signal.SIGCHLD,
    _signal.SIGINT,
    _signal.SIGTERM,
    _signal.SIGHUP,
    _signal.SIGPIPE,
    _signal.SIGXFSZ,
)
# Files and sockets that a program may have open. Those on their way through sockets are counted by the kernel for the
# user outside, who is the same for all sandboxes, and it refuses more to whoever may have fewer open than that. So a
# program may have half of what this process may, which passes some at its start, and less than the cloud.
MOST_FILES = 32_768
PROXY_ADDRESS = "127.0.0.3"  # beside the one at which web functions have their ports, one of which could be taken else
OOM_SCORE = b"500"  # when memory is used up, the kernel kills programs before this process


LIBC = ctypes.CDLL(None)


def main() -> None:
    """Set this process's limits and signals, then serve the host until the inherited socket is closed.

    Its arguments are that socket's number, the limits of processes and of a file's bytes, and the working directory.
    """
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    keep_to_what_we_have()
    sys.meta_path.clear()  # nothing is imported from here on: guests may put other files in the place of Python's
    inherited = int(sys.argv[1])
    os.closerange(3, inherited)  # bubblewrap leaves descriptors open
    os.closerange(inherited + 1, 256)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, value in ((resource.RLIMIT_NPROC, int(sys.argv[2])), (resource.RLIMIT_FSIZE, int(sys.argv[3]))):
        resource.setrlimit(limit, (value, value))
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    wake_read, wake_write = os.pipe()
    for descriptor in (wake_read, wake_write):
        os.set_blocking(descriptor, False)
    _signal.set_wakeup_fd(wake_write)
    for number in (_signal.SIGCHLD, _signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, lambda *_: None)
    control = _socket.socket(fileno=inherited)
    os.set_inheritable(inherited, False)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    listener.bind(SYNC_ADDRESS)
    listener.listen(MAX_SYNC_WAITING)
    listener.setblocking(False)
    Agent(control, listener, wake_read).run()


def keep_to_what_we_have() -> None:
    """Let no program that is started from here inherit a capability as another user, or gain one that we have not."""
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    data = ctypes.create_string_buffer(24)  # two times 32 bits of what is effective, permitted and inheritable
    LIBC.capget(header, data)
    words = list(struct.unpack("6I", data.raw))
    LIBC.capset(header, struct.pack("6I", words[0], words[1], 0, words[3], words[4], 0))
    permitted = words[1] | words[4] << 32
    for number in range(64):
        if not permitted >> number & 1:
            LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


class Json:
    """How `json` reads a text: numbers, texts, lists and dictionaries, nothing else."""

    strict = True
    object_hook = object_pairs_hook = parse_constant = None
    parse_float, parse_int = float, int


PARSE = make_scanner(Json)  # type: ignore[arg-type]  # it takes whatever has these attributes


class Ignoring:
    """Ends its block without an error where one of these was raised, like `contextlib.suppress`."""

    def __init__(self, *errors: type[BaseException]) -> None:
        self.errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self.errors)


class Socket(_socket.socket):
    """A socket that the end of its block closes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Agent:
    """Serves the host at `control`, and `sync` programs at `listener`; `wake` becomes readable at each signal."""

    def __init__(self, control: _socket.socket, listener: _socket.socket, wake: int) -> None:
        self.control = control
        self.listener = listener
        self.wake = wake
        self.children: dict[int, str] = {}
        self.syncs: dict[int, _socket.socket] = {}
        self.silent: dict[int, _socket.socket] = {}
        self.sync_number = 0
        self.poll = select.epoll()
        for source in (control.fileno(), listener.fileno(), wake):
            self.poll.register(source, select.EPOLLIN)

    def run(self) -> None:
        """Send the proxy's listening socket, then handle orders, syncs and ended children until `control` is closed."""
        with Socket(_socket.AF_INET, _socket.SOCK_STREAM) as proxy:
            proxy.bind((PROXY_ADDRESS, 0))
            proxy.listen(MAX_PROXY_WAITING)
            self.tell({"op": "ready", "uid": os.getuid(), "workdir": self.workdir()}, proxy.fileno())
        while True:
            for source, _ in self.poll.poll():
                if source == self.control.fileno():
                    if not self.obey():
                        return
                elif source == self.listener.fileno():
                    self.accept()
                elif source == self.wake:
                    self.reap()
                elif source in self.silent:
                    self.hear(self.silent.pop(source))

    def workdir(self) -> str:
        """Make the directory in which programs start, if it is missing; returns why that failed, "" if it did not."""
        try:
            os.makedirs(sys.argv[4], exist_ok=True)
        except OSError as error:
            return str(error.strerror)
        return ""

    def tell(self, message: dict[str, object], *descriptors: int) -> None:
        """Send the host a message of numbers and texts as JSON, with descriptors."""
        fields = (
            f'"{name}": {encode_basestring_ascii(value) if isinstance(value, str) else value}'
            for name, value in message.items()
        )
        passed = struct.pack(f"{len(descriptors)}i", *descriptors)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)] if passed else []
        self.control.sendmsg([("{" + ", ".join(fields) + "}").encode()], rights)

    def obey(self) -> bool:
        """Carry out one order of the host; False when the socket is closed."""
        data, passed, _, _ = self.control.recvmsg(MAX_MESSAGE, _socket.CMSG_LEN(3 * DESCRIPTOR_BYTES))
        if not data:
            return False
        descriptors = [number for _, _, packed in passed for (number,) in struct.iter_unpack("i", whole(packed))]
        order, _ = PARSE(data.decode(), 0)
        if order["op"] == "exec":
            self.start(order, descriptors)
        elif order["op"] == "kill":
            for pid, name in list(self.children.items()):
                if name == order["id"]:
                    kill_family(pid)
        elif order["op"] == "dial":
            self.dial(order["number"], order["port"])
        elif order["op"] == "listen":
            self.listen(order["number"], order["port"])
        elif order["op"] == "synced":
            peer = self.syncs.pop(order["number"], None)
            if peer is not None:
                self.answer(peer, str(order["failure"]))
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def dial(self, number: int, port: int) -> None:
        """Send the host a socket that connects to a port of our loopback; the host waits for the connection itself."""
        try:
            with Socket(_socket.AF_INET, _socket.SOCK_STREAM) as inside:
                inside.setblocking(False)
                inside.connect_ex(("127.0.0.1", port))
                self.tell({"op": "dialled", "number": number}, inside.fileno())
        except OSError:  # no descriptor is left, or the host does not read
            self.tell({"op": "dialled", "number": number})

    def listen(self, number: int, port: int) -> None:
        """Send the host a socket that listens at a port of our loopback, for the host to serve."""
        try:
            with Socket(_socket.AF_INET, _socket.SOCK_STREAM) as inside:
                inside.bind(("127.0.0.1", port))
                inside.listen(MAX_PROXY_WAITING)
                self.tell({"op": "dialled", "number": number}, inside.fileno())
        except OSError:  # a program in the sandbox uses the port
            self.tell({"op": "dialled", "number": number})

    def start(self, order: dict[str, Any], descriptors: list[int]) -> None:
        """Start a program with `descriptors` as stdin, stdout and stderr, or on a new terminal, which the host gets."""
        terminal = []
        try:
            if order["terminal"] is not None:
                rows, columns = order["terminal"]
                terminal = list(os.openpty())
                fcntl.ioctl(terminal[1], termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
                self.tell({"op": "terminal", "id": order["id"]}, terminal[0])
                descriptors = [terminal[1]] * 3
            if len(descriptors) != 3:  # the guest has lowered our limit, and the kernel has kept them back
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid = os.fork()
            if pid == 0:
                become(order, descriptors)
            self.children[pid] = order["id"]
        except OSError:  # the guest's own processes have reached the limit
            for descriptor in descriptors[2:]:
                complain("the sandbox has no room for another process", descriptor)
            self.tell({"op": "exit", "id": order["id"], "code": 126})
        finally:
            for descriptor in terminal:
                os.close(descriptor)

    def reap(self) -> None:
        """Reap all ended processes, and tell the host the exit codes of those that it has started."""
        with Ignoring(BlockingIOError):
            os.read(self.wake, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self.children.pop(pid, None)
            if name is not None:
                code = os.waitstatus_to_exitcode(status)
                self.tell({"op": "exit", "id": name, "code": code})

    def accept(self) -> None:
        """Accept a connection of a `sync` program, unless there are too many."""
        with Ignoring(OSError):
            number, _ = self.listener._accept()  # type: ignore[attr-defined]  # what `socket` itself calls
            peer = _socket.socket(fileno=number)
            peer.setblocking(False)
            if len(self.syncs) + len(self.silent) >= MAX_SYNC_WAITING:
                self.answer(peer, "too many syncs at once: try again")
                return
            self.silent[number] = peer
            self.poll.register(number, select.EPOLLIN)

    def hear(self, peer: _socket.socket) -> None:
        """Read the path from a `sync` program, and ask the host to commit it in the name of the program's exec."""
        self.poll.unregister(peer.fileno())
        name = ""
        try:
            path = peer.recv(4096).decode("utf-8", "replace")
            credentials = peer.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, PEER_CREDENTIALS.size)
            name = self.children.get(os.getsid(PEER_CREDENTIALS.unpack(credentials)[0]), "")  # a child leads a session
        except OSError:
            path = ""
        if not path:
            peer.close()
            return
        self.sync_number += 1
        self.syncs[self.sync_number] = peer
        self.tell({"op": "sync", "number": self.sync_number, "path": path[:4096], "id": name})

    def answer(self, peer: _socket.socket, failure: str) -> None:
        """Send why a sync failed, or a dot if it succeeded, and close the connection."""
        with Ignoring(OSError):
            peer.send(failure.encode("utf-8", "replace")[:4096] or b".")
        peer.close()


def whole(packed: bytes) -> bytes:
    """Return what there is of descriptors, without a last one that was cut off."""
    return packed[: len(packed) - len(packed) % DESCRIPTOR_BYTES]


def become(order: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Become the program of an order, in the forked child; never returns."""
    code = 127
    try:
        os.setsid()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target, inheritable=True)
        if order["terminal"] is not None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.closerange(3, 1024)
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = MOST_FILES if files == resource.RLIM_INFINITY else min(files // 2, MOST_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # without it, root owns the next file; exec sets it anyway
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(OOM_SCORE)
        _signal.set_wakeup_fd(-1)
        for number in TAKEN_SIGNALS:
            _signal.signal(number, _signal.SIG_DFL)
        try:
            home = take_user(order.get("user", ""))
            if home and order["env"].get("HOME") == ROOT_HOME:
                order["env"]["HOME"] = home
            os.chdir(order["cwd"])
            os.execvpe(order["argv"][0], order["argv"], order["env"])  # noqa: S606  # no shell is the point
        except FileNotFoundError:
            complain(order["argv"][0] + ": not found, or no such working directory: " + order["cwd"])
        except OSError as error:
            code = 126
            complain(order["argv"][0] + ": " + str(error.strerror))
    finally:
        os._exit(code)


def take_user(text: str) -> str:
    """Change to the user `name[:group]` of the image's own files, and return their home; does nothing for ""."""
    if not text:
        return ""
    name, _, group = text.partition(":")
    found = next((row for row in rows_of("/etc/passwd", 7) if name in (row[0], row[2])), None)
    if found is None and not is_id(name):
        raise OSError(errno.EINVAL, "the image has no user " + name)
    uid = int(found[2]) if found else int(name)
    gid = int(found[3]) if found else 0
    groups = rows_of("/etc/group", 4)
    if group:
        known = next((row for row in groups if group in (row[0], row[2])), None)
        if known is None and not is_id(group):
            raise OSError(errno.EINVAL, "the image has no group " + group)
        gid = int(known[2]) if known else int(group)
    login = found[0] if found else ""
    os.setgroups([int(row[2]) for row in groups if login and login in row[3].split(",")][:64])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    return found[5] if found else ""


def rows_of(path: str, fields: int) -> list[list[str]]:
    """Return the rows of /etc/passwd (7 fields) or /etc/group (4) that make sense; the image has written them."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # whatever it is, do not wait for it
        with open(descriptor, "rb") as file:
            data = file.read(MAX_ACCOUNTS + 1) or b""
    except OSError:
        return []
    if len(data) > MAX_ACCOUNTS:  # the last row is cut off, and a part of a number is another one
        data = data.rpartition(b"\n")[0]
    rows = [line.split(":") for line in data.decode("utf-8", "replace").splitlines()]
    return [row for row in rows if len(row) >= fields and is_id(row[2]) and (fields == 4 or is_id(row[3]))]


def is_id(text: str) -> bool:
    """Tell whether a text is the number of a user or group that there can be inside; -1 would mean no change."""
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < USERS


def complain(text: str, descriptor: int = 2) -> None:
    """Print a line to stderr."""
    with Ignoring(OSError):
        os.write(descriptor, (text + "\n").encode("utf-8", "replace"))


def kill_family(pid: int) -> None:
    """Kill a process group and all its descendants, and repeat that until none is found, at most 20 times."""
    for _ in range(20):
        family = descendants(pid)
        with Ignoring(OSError):
            os.killpg(pid, _signal.SIGKILL)
        for member in family:
            with Ignoring(OSError):
                os.kill(member, _signal.SIGKILL)
        if not family - {pid}:
            return


def descendants(root: int) -> set[int]:
    """Return the ids of a process, its descendants, and all processes of its session, without zombies."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                with open("/proc/" + name + "/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                parents[int(name)] = (int(fields[1]), int(fields[3]))
    found = {root} & set(parents)
    found |= {pid for pid, (_, session) in parents.items() if session == root}
    while True:
        more = {pid for pid, (parent, _) in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def become_user() -> NoReturn:
    """Start a program as a user, whose home is HOME unless that is set.

    The arguments are "as", the user, NAME=VALUE that are added to the environment, "--", and the program's words.
    """
    keep_to_what_we_have()
    end = sys.argv.index("--")
    words = sys.argv[end + 1 :]
    try:
        home = take_user(sys.argv[2])
        os.environ.setdefault("HOME", home or "/")
        os.environ.update(dict(text.split("=", 1) for text in sys.argv[3:end]))
        os.execvp(words[0], words)  # noqa: S606  # no shell is the point
    except OSError as error:
        complain(words[0] + ": " + str(error.strerror))
        sys.exit(126)


if __name__ == "__main__":
    if sys.argv[1] == "as":
        become_user()
    main()
