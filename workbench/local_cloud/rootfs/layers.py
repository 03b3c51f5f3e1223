"""The store of layers: directories that never change once they are there, and the private uppers of what runs.

A layer's name is the key of what it was made from, so that the same step is done once for all images. It is made under
another name and renamed when it is complete and on the disk: a kill leaves no half layer.
"""

import asyncio
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.local_cloud.base.disk import sync_all
from workbench.local_cloud.base.guest_directories import remove_at_once
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.rootfs.ids import NoRangeError, ids

LAYERS, LIVE = "layers", "live"
MAX_LAYERS = 100  # of one root: the kernel's limit is 500, and a walk gets slower with each
_WORK_S = 600.0


class LayerError(Exception):
    """A layer could not be made; the message is a sentence that says why."""


@dataclass(frozen=True)
class Root:
    """A root file system that can be mounted: the store's directory, and the paths in it of its parts.

    `lower` are the layers, the topmost first; an absolute path is that of one elsewhere.
    """

    store: Path
    lower: tuple[str, ...]
    upper: str
    work: str

    @property
    def written(self) -> Path:
        """The directory that holds what was written to this root."""
        return self.store / self.upper

    @property
    def below(self) -> list[Path]:
        """The directories of the layers."""
        return [self.store / lower for lower in self.lower]


class Layers:
    """Keeps layers and uppers below one directory, whose parts only the ids of root file systems may enter."""

    def __init__(self, store: Path) -> None:
        """Make the directories, and remove what an earlier process left in the uppers."""
        self.store = store
        self._problem: str | None = None
        self._making: dict[str, asyncio.Future[None]] = {}
        for directory in (store, store / LAYERS, store / LIVE):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o711)
        self.private = _private(store / "private")
        """A key of this store. The names of layers and images' keys must not confirm a guessed secret."""
        self._leftovers = [f"{LIVE}/{path.name}" for path in (store / LIVE).iterdir()]

    async def problem(self) -> str:
        """Return why no root file system can be mounted on this machine and what mends it, empty if one can.

        It is tried out, once.
        """
        if self._problem is None:
            try:
                async with self.root([]) as root:
                    await self.work("try", lower=[root.upper], upper="", work="")
                self._problem = ""
            except NoRangeError as error:
                self._problem = str(error)
            except (LayerError, OSError, TimeoutError) as error:
                self._problem = (
                    f"the kernel does not let it ({error}). It needs user namespaces with several ids and overlayfs in "
                    "them (Linux 6.8 or newer), and a state directory that is not on an overlay itself."
                )
        return self._problem

    async def reap(self) -> None:
        """Remove the uppers of an earlier process. Idempotent."""
        leftovers, self._leftovers = self._leftovers, []
        if leftovers:
            await self.remove(leftovers)

    def has(self, key: str) -> bool:
        """Whether there is a layer of this key."""
        return (self.store / LAYERS / key).is_dir()

    def path(self, key: str) -> str:
        """Return the path of a layer in the store."""
        return f"{LAYERS}/{key}"

    def keys(self) -> list[str]:
        """Return the keys of all layers."""
        return sorted(path.name for path in (self.store / LAYERS).iterdir())

    async def once(self, key: str, make: Callable[[Root], Awaitable[None]], *, below: Iterable[str] = ()) -> None:
        """Make the layer of a key on top of the layers `below`, the topmost first, unless it is there.

        `make` writes to the root's upper directory. Two callers at the same time make it once. Raises what it raises.
        """
        while not self.has(key):
            running = self._making.get(key)
            if running is not None:
                await asyncio.wait([running])
                continue
            done = self._making[key] = asyncio.get_running_loop().create_future()
            try:
                async with self.root(below) as root:
                    await make(root)
                    await self.keep(key, root)
            finally:
                del self._making[key]
                done.set_result(None)

    async def squashed(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        """Return layers that show the same as `keys`, the topmost first: one in the place of many that are too many.

        Raises LayerError, OSError.
        """
        if len(keys) < MAX_LAYERS:
            return keys
        key = hashlib.sha256(" ".join(["squashed", *keys]).encode()).hexdigest()[:32]
        lower = [self.path(one) for one in keys]
        await self.once(key, lambda root: self._copied(lower, root))
        return (key,)

    async def _copied(self, lower: list[str], root: Root) -> None:
        await self.work("copy of an upper", lower=lower, target=root.upper)

    async def keep(self, key: str, root: Root) -> None:
        """Make what was written to a root a layer of this key; the root must not be in use any more."""
        await asyncio.to_thread(sync_all, self.store)
        place = f"{LAYERS}/{key}"
        try:
            root.written.rename(self.store / place)
        except PermissionError:  # its root directory belongs to another user inside, or nobody may write to it
            await self.work("rename", source=root.upper, target=place)

    def open(self, lower: Iterable[str]) -> Root:
        """Make the private directories of a new root on layers, the topmost first; to be given to `close`."""
        keys = tuple(lower)
        missing = [key for key in keys if not self.has(key)]
        if missing:
            raise LayerError("Files of the image are missing: deploy again to build it anew.")
        return self.open_on(map(self.path, keys))

    def open_on(self, lower: Iterable[str]) -> Root:
        """Make the private directories of a new root on directories, as `Root.lower` names them; as `open` does."""
        name = f"{LIVE}/{secrets.token_hex(8)}"
        owner = ids().root
        for directory in (self.store / name, self.store / name / "upper", self.store / name / "work"):
            directory.mkdir()
            directory.chmod(0o755)
            if os.geteuid() == 0:
                os.chown(directory, owner, owner)
        return Root(self.store, tuple(lower), f"{name}/upper", f"{name}/work")

    def empty(self, root: Root) -> str:
        """Make an empty directory that goes with a root, and return its path: there is no overlay without a lower."""
        path = f"{Path(root.upper).parent}/empty"
        (self.store / path).mkdir(mode=0o755)
        (self.store / path).chmod(0o755)
        return path

    async def copy(self, root: Root) -> str:
        """Make what has been written to a root until now a layer of its own, and return its key.

        The root may be in use: what is written meanwhile may be in the copy or not. Raises LayerError, OSError.
        """
        key = secrets.token_hex(16)
        async with self.root([]) as target:
            await self.work("copy of an upper", source=root.upper, target=target.upper)
            await self.keep(key, target)
        return key

    async def close(self, root: Root) -> None:
        """Remove what was written to a root. Idempotent."""
        await self.remove([str(Path(root.upper).parent)])

    @asynccontextmanager
    async def root(self, lower: Iterable[str]) -> AsyncIterator[Root]:
        """Give a root on layers while the block runs."""
        root = self.open(lower)
        try:
            yield root
        finally:
            await asyncio.shield(self.close(root))

    async def remove(self, paths: list[str]) -> None:
        """Remove trees by their paths in the store, each whole or not at all. Raises LayerError, OSError."""
        if os.geteuid() == 0:
            for path in paths:
                await asyncio.to_thread(remove_at_once, self.store / path, self.store / LIVE)
        else:  # their files belong to subordinate ids
            await self.work("remove", paths=paths, aside=LIVE)

    async def put(self, root: Root, files: Mapping[str, bytes], *, mode: int) -> None:
        """Write files into a root by their absolute paths. Raises LayerError, OSError."""
        contents = order_descriptor(b"".join(files.values()))
        try:
            await self.work(
                "put",
                inherit=[contents],
                contents=contents,
                sizes={path: len(content) for path, content in files.items()},
                mode=mode,
                lower=root.lower,
                upper=root.upper,
                work=root.work,
            )
        finally:
            os.close(contents)

    async def work(self, do: str, *, inherit: Sequence[int] = (), **order: Any) -> dict[str, Any]:
        """Do one thing in this store as root inside the namespace, see `work`. Raises LayerError, OSError."""
        return await work(self.store, do, inherit=inherit, **order)


async def work(store: Path, do: str, *, inherit: Sequence[int] = (), **order: Any) -> dict[str, Any]:
    """Do one thing as root inside the namespace, see `worker`; returns what it says.

    `inherit` are descriptors that the worker gets. Raises LayerError, OSError.
    """
    read = _order(store, do, order)
    try:
        program = await Program.start(*_worker(read), pass_fds=[read, *inherit], cwd="/")
    finally:
        os.close(read)
    async with aclosing(program):
        try:
            async with asyncio.timeout(_WORK_S):
                printed, complaint = await asyncio.gather(program.stdout.read(), program.stderr.read())
                code = await program.wait()
        except TimeoutError:
            raise LayerError(f"The files of a layer took longer than {_WORK_S:g} s.") from None
    if code:
        raise _failed(code, complaint)
    return dict(json.loads(printed))


def files_below(directory: Path) -> Iterator[os.stat_result]:
    """Yield what is known of each file of a tree, but for those of directories that only users inside may enter."""
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                yield os.lstat(f"{parent}/{name}")


def remove_layers(store: Path, paths: Sequence[Path]) -> None:
    """Remove trees of a store that no cloud uses, each whole or not at all, and wait for it.

    Raises LayerError, NoRangeError, OSError.
    """
    if not paths:
        return
    (store / LIVE).mkdir(exist_ok=True)
    if os.geteuid() == 0:
        for path in paths:
            remove_at_once(path, store / LIVE)
        return
    read = _order(store, "remove", {"paths": [str(path.relative_to(store)) for path in paths], "aside": LIVE})
    try:  # their files belong to subordinate ids
        done = subprocess.run(
            _worker(read), pass_fds=[read], cwd="/", capture_output=True, check=False, timeout=_WORK_S
        )
    except subprocess.TimeoutExpired:
        raise LayerError(f"The files of a layer took longer than {_WORK_S:g} s.") from None
    finally:
        os.close(read)
    if done.returncode:
        raise _failed(done.returncode, done.stderr)


def _order(store: Path, do: str, order: Mapping[str, Any]) -> int:
    text = json.dumps({"do": do, "store": str(store), "ids": ids().as_json(), "owner": _owner(), **order})
    return order_descriptor(text.encode())


def _worker(read: int) -> list[str]:
    return [sys.executable, "-P", "-m", "workbench.local_cloud.rootfs.worker", str(read)]


def _failed(code: int | None, complaint: bytes) -> LayerError:
    said = complaint.decode(errors="replace").strip().splitlines() or [f"it ended with {code}"]
    return LayerError(said[-1][:500])


async def measure(
    root: Root, directories: Sequence[Path], *, enough_bytes: int, enough_entries: int
) -> tuple[int, int]:
    """Return the bytes on the disk and the entries of trees of users inside, which we may not be able to read.

    The walk ends early when there is more than enough of either. Raises LayerError, OSError.
    """
    names = {f"tree {number}": str(path) for number, path in enumerate(directories)}
    found = await work(root.store, "measure", open=names, enough=[enough_bytes, enough_entries])
    return found["bytes"], found["entries"]


def order_descriptor(content: bytes) -> int:
    """Return a descriptor that holds bytes and is read from its beginning; the caller closes it."""
    descriptor = os.memfd_create("order", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _private(path: Path) -> bytes:
    """Return the content of a file that only we may read, which is made if it is missing."""
    if not path.exists():
        made = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
        made.touch(mode=0o600)
        made.write_bytes(secrets.token_bytes(32))
        with suppress(FileExistsError):
            path.hardlink_to(made)
        made.unlink()
    return path.read_bytes()


def _owner() -> int | None:
    return ids().root if os.geteuid() == 0 else None
