"""Unpacks layers as the cloud does it: by root of a user namespace, below a chroot, in a child process."""

import ctypes
import os
import shutil
import signal
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.layers import Layer
from workbench.local_cloud.registry.unpacking import Limits, Unpacked, read_report, unpack_in_child

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
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

    def unpack(self, layer: Layer, *, name: str = "layer", below: str | None = None, **limits: int) -> Unpacked:
        """Unpack a layer into a new directory `name`; `limits` are those of `unpacking.Limits`."""
        directory = self.root / name
        directory.mkdir(mode=0o755)
        os.chown(directory, BASE, BASE)
        with ExitStack() as stack:
            blob = stack.enter_context(tempfile.TemporaryFile())
            blob.write(layer.blob)
            blob.flush()
            ready, mapped, report = (_Pipe(stack) for _ in range(3))
            root = _opened(stack, directory)
            lower = None if below is None else _opened(stack, self.root / below)

            def inside() -> NoReturn:
                _become_root(ready, mapped)
                os.fchdir(root)
                os.chroot(".")
                unpack_in_child(
                    blob.fileno(), layer.diff_id, report=report.writer.fileno(), below=lower, limits=Limits(**limits)
                )

            child = _forked(inside)
            try:
                ready.writer.close()
                report.writer.close()
                assert ready.reader.read(1) == b"1"
                for kind in ("uid", "gid"):
                    Path(f"/proc/{child}/{kind}_map").write_text(f"0 {BASE} {COUNT}")
                mapped.writer.write(b"1")
                told = report.reader.read()
            finally:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return read_report(told)

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
    yield Workspace(root)
    shutil.rmtree(root)


class _Pipe:
    """A pipe whose ends are closed with the stack."""

    def __init__(self, stack: ExitStack) -> None:
        reader, writer = os.pipe()
        self.reader = stack.enter_context(os.fdopen(reader, "rb", buffering=0))
        self.writer = stack.enter_context(os.fdopen(writer, "wb", buffering=0))


def _forked(inside: Callable[[], NoReturn]) -> int:
    """Run a function in a child process that ends with it; returns the child's id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child takes none of their locks
        child = os.fork()
    if child == 0:
        try:
            inside()
        finally:
            os._exit(1)
    return child


def _become_root(ready: _Pipe, mapped: _Pipe) -> None:
    """Enter a user namespace, wait for its maps, and become its root."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER | _NEW_MOUNTS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    ready.writer.write(b"1")
    mapped.reader.read(1)
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)


def _opened(stack: ExitStack, directory: Path) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, descriptor)
    return descriptor


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
