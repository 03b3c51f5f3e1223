"""Unpacks layers as the cloud does it: by root of a user namespace, below a chroot, in a child process."""

import ctypes
import os
import shutil
import signal
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.layers import Layer
from workbench.local_cloud.registry.unpacking import Limits, Unpacked, read_report, unpack_in_child

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_RECURSIVE, _PRIVATE = 0x4000, 0x40000
BASE, COUNT = 1_000_000, 65_536  # the ids outside of those that the namespace has


@dataclass(frozen=True)
class Entry:
    """What stands under a name of a layer, with the ids that it has inside of the namespace."""

    kind: str  # as `ls` has it: - d l p c
    mode: int
    owner: tuple[int, int]
    content: bytes = b""  # of a file; a link's target
    mtime: float = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)


class Workspace:
    """A place for layers whose files get the namespace's ids."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def unpack(
        self, layer: Layer, *, name: str = "layer", below: Sequence[str] = (), disk_bytes: int = 0, **limits: int
    ) -> Unpacked:
        """Unpack a layer into a new directory `name`; `limits` are those of `unpacking.Limits`.

        `below` are layers of this workspace, the lowest first, which are mounted as an overlay within the namespace.
        With `disk_bytes`, the directory is on a disk of that size, which goes with the child.
        """
        self._make(name)
        with ExitStack() as stack:
            blob = stack.enter_context(tempfile.TemporaryFile())
            blob.write(layer.blob)
            blob.flush()

            def inside(report: int) -> NoReturn:
                merged = os.open(self._mounted(below), os.O_RDONLY | os.O_DIRECTORY) if below else None
                if disk_bytes:
                    _call("mount", b"none", bytes(self.root / name), b"tmpfs", 0, f"size={disk_bytes}".encode())
                os.chdir(self.root / name)
                os.chroot(".")
                unpack_in_child(blob.fileno(), layer.diff_id, report=report, below=merged, limits=Limits(**limits))

            return read_report(_answer_of(inside))

    def run(self, layers: Sequence[str], *command: str) -> str:
        """Run a program as root of a system made of these layers, the lowest first; returns what it prints."""
        self._make("upper")
        self._make("work")

        def inside(report: int) -> NoReturn:
            place = self._mounted(layers, f"upperdir={self.root}/upper,workdir={self.root}/work")
            os.chroot(place)
            os.chdir("/")
            os.dup2(report, 1)
            os.dup2(report, 2)
            os.execve(command[0], command, {"PATH": "/bin:/usr/bin"})

        try:
            return _answer_of(inside).decode()
        finally:
            shutil.rmtree(self.root / "upper")
            shutil.rmtree(self.root / "work")

    def _make(self, name: str) -> None:
        directory = self.root / name
        directory.mkdir(mode=0o755)
        os.chown(directory, BASE, BASE)

    def _mounted(self, layers: Sequence[str], more: str = "") -> Path:
        """Mount layers as an overlay, in the namespace that this process has entered."""
        places = [*(self.root / name for name in reversed(layers)), self.root / "empty"]
        options = ["userxattr", f"lowerdir={':'.join(map(str, places))}", *([more] if more else [])]
        _call("mount", b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
        _call("mount", b"overlay", bytes(self.root / "merged"), b"overlay", 0, ",".join(options).encode())
        return self.root / "merged"

    def entries(self, name: str = "layer") -> dict[str, Entry]:
        """All of a layer's entries by their names; '.' is its root."""
        root = self.root / name
        return {str(path.relative_to(root)): _entry(path) for path in (root, *sorted(_walk(root)))}


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    """A workspace that is removed afterwards. Skips where ids cannot be mapped."""
    if os.geteuid() != 0:
        pytest.skip("only root may map 65,536 ids without newuidmap")
    root = Path(tempfile.mkdtemp(prefix="workbench-layers-"))
    root.chmod(0o755)
    (root / "empty").mkdir()
    (root / "merged").mkdir()
    yield Workspace(root)
    shutil.rmtree(root)


class _Pipe:
    """A pipe whose ends are closed with the stack."""

    def __init__(self, stack: ExitStack) -> None:
        reader, writer = os.pipe()
        self.reader = stack.enter_context(os.fdopen(reader, "rb", buffering=0))
        self.writer = stack.enter_context(os.fdopen(writer, "wb", buffering=0))


def _answer_of(inside: Callable[[int], NoReturn]) -> bytes:
    """Run a function in a child process as root of a user namespace; returns what it writes to its descriptor."""
    with ExitStack() as stack:
        ready, mapped, report = (_Pipe(stack) for _ in range(3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child takes none of their locks
            child = os.fork()
        if child == 0:
            try:
                _become_root(ready, mapped)
                inside(report.writer.fileno())
            finally:
                os._exit(1)
        try:
            ready.writer.close()
            report.writer.close()
            assert ready.reader.read(1) == b"1"
            for kind in ("uid", "gid"):
                Path(f"/proc/{child}/{kind}_map").write_text(f"0 {BASE} {COUNT}")
            mapped.writer.write(b"1")
            return report.reader.read()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _become_root(ready: _Pipe, mapped: _Pipe) -> None:
    """Enter a user namespace, wait for its maps, and become its root."""
    _call("unshare", _NEW_USER | _NEW_MOUNTS)
    ready.writer.write(b"1")
    mapped.reader.read(1)
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)


def _call(name: str, *arguments: bytes | int | None) -> None:
    """Call a function of the C library. Raises OSError."""
    if getattr(_LIBC, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _walk(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _entry(path: Path) -> Entry:
    found = path.lstat()
    kind = stat.filemode(found.st_mode)[0]
    content = b""
    if kind == "-":
        content = path.read_bytes()
    elif kind == "l":
        content = os.fsencode(path.readlink())
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
    }
    owner = (found.st_uid - BASE, found.st_gid - BASE)
    return Entry(kind, stat.S_IMODE(found.st_mode), owner, content, found.st_mtime, xattrs)
