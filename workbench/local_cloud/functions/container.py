"""One function container: the SDK's own entrypoint in a bubblewrap of its own.

It runs the deployer's code, which is trusted more than what runs in a sandbox. It has its own root, process ids and
volume mounts, so that paths are as on Modal and one kill ends everything. It shares the host's network, because it must
reach the cloud.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path

import psutil
from modal_proto import api_pb2

from workbench.local_cloud.base import host
from workbench.local_cloud.base.host_processes import family
from workbench.local_cloud.base.log_lines import OutputPipe
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.base.system_root import interpreter_paths, system_root
from workbench.local_cloud.functions import guest_output
from workbench.local_cloud.images import layouts
from workbench.local_cloud.images.images import Image
from workbench.local_cloud.rootfs.ids import give_to_root_inside, ids
from workbench.local_cloud.rootfs.layers import Layers, Root, order_descriptor
from workbench.local_cloud.rootfs.mounting import Places, Word, environment
from workbench.local_cloud.rootfs.starting import started
from workbench.local_cloud.volumes.working_copies import WorkingCopy

CODE_ROOT = "/root"
_ENTRYPOINT = "modal._container_entrypoint"
_GUEST_OUTPUT = "/run/modal/output.py"
# Starts the Python of a registry's image. If that is of the cloud's own version and has no SDK, it gets the cloud's.
_FIND_PYTHON = """
own=$1 packages=$2 sdk=$3
shift 3
python=$(command -v python || command -v python3) || {
    echo "The image has no Python to run the function with: install one, or use from_registry(..., add_python=...)." >&2
    exit 127
}
found=$("$python" -c 'import sys, importlib.util as u
print(bool(u.find_spec("modal")), "%d.%d" % sys.version_info[:2])')
case "$found" in
    "True "*) ;;
    "False $own") export PYTHONPATH="$PYTHONPATH:$packages" ;;
    *)
        echo "The image's Python (${found#* }) has no SDK: add pip_install(\"modal==$sdk\") to the image." >&2
        exit 127
        ;;
esac
exec "$python" "$@"
"""
_REAP_S = 5.0
_SETTLE_S = 5.0


class Container:
    """A function container, made by `ContainerMaker`. Its owner calls `start` once, and `aclose` in any case.

    `mounts` are its working copies by mount path. When its program has ended, `exited` is set and `exit_code` known.
    """

    def __init__(
        self,
        *,
        task_id: str,
        arguments: api_pb2.ContainerArguments,
        env: Mapping[str, str],
        mounts: Mapping[str, WorkingCopy],
        read_only: frozenset[str],
        image: Image,
        lay_out: Callable[[Path], None],
        on_output: Callable[[int, str, list[str]], None],
        inputs_together: bool,
        on_end: Callable[[], None],
        scratch: Path,
        layers: Layers,
        seccomp: bytes,
        root: Root | None,
    ) -> None:
        """With `root` it runs on that one, which stays the caller's; else one is made of its image's layers."""
        self.task_id = task_id
        self.arguments = arguments
        self.mounts = mounts
        self.exited = asyncio.Event()
        self.exit_code: int | None = None
        self._env = env
        self._read_only = read_only
        self._image = image
        self._layers = layers
        self._seccomp = seccomp
        self._root = root
        self._own_root: Root | None = None
        self.on_output = on_output
        self._lay_out = lay_out
        self._pipes = {
            fd: OutputPipe(partial(on_output, fd), framed=inputs_together)
            for fd in (api_pb2.FILE_DESCRIPTOR_STDOUT, api_pb2.FILE_DESCRIPTOR_STDERR)
        }
        self._on_end = on_end
        self._inputs_together = inputs_together
        self._directory = Path(tempfile.mkdtemp(prefix=f"{task_id}-", dir=scratch))
        self._program: Program | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Copy the code into place and start the entrypoint. Raises OSError when bubblewrap cannot be started."""
        arguments_path = self._directory / "arguments.pb"
        arguments_path.write_bytes(self.arguments.SerializeToString())
        code = self._directory / "code"
        code.mkdir()
        await asyncio.to_thread(self._lay_out, code)
        argv = [*self._image.config.entrypoint, *self._python(), self._launcher, _ENTRYPOINT]
        if self._image.is_rooted:
            await asyncio.to_thread(give_to_root_inside, self._directory)
            await self._start(self._rooted(code, argv))
        else:
            await self._start(self._unrooted(code, argv))

    def _program_env(self) -> dict[str, str]:
        return {**self._env, "MODAL_CONTAINER_ARGUMENTS_PATH": "/run/modal/arguments.pb"}

    async def _start(self, command: AbstractContextManager[tuple[list[str], list[int]]]) -> None:
        out, err = self._pipes.values()
        env = {"PATH": os.defpath}  # the program inside gets its own from bubblewrap
        with command as (argv, descriptors):
            self._program = await Program.start(*argv, env=env, stdout=out.fd, stderr=err.fd, pass_fds=descriptors)
        out.started()
        err.started()
        self._tasks = [asyncio.create_task(work) for work in (out.run(), err.run(), self._reap(self._program))]

    def _python(self) -> list[str]:
        """Return the words that start the Python in which the function runs."""
        if self._image.is_rooted and not self._image.python:
            own = str(metadata.distribution("modal").locate_file(""))
            return ["/bin/sh", "-c", _FIND_PYTHON, "sh", host.OWN_PYTHON, own, metadata.version("modal")]
        return [self._image.python or sys.executable]

    @property
    def _launcher(self) -> str:
        """Python's argument before the entrypoint's name: `-m`, or `guest_output` where inputs run at the same time."""
        return _GUEST_OUTPUT if self._inputs_together else "-m"

    @property
    def pid(self) -> int:
        """The process id of the container's bubblewrap, 0 before it is started."""
        return self._program.pid if self._program is not None else 0

    def interrupt(self) -> None:
        """Send SIGINT to the entrypoint, as Modal does when it preempts a container."""
        for process in family(self.pid) if self.pid else ():
            with suppress(psutil.Error):
                if process.cmdline()[1:3] == [self._launcher, _ENTRYPOINT]:
                    process.send_signal(signal.SIGINT)

    async def settle_output(self, *inputs: str) -> None:
        """Return when everything that was printed before this call is in the log, but after 5 s at the latest.

        That includes unfinished lines of `inputs`, which are inputs' ids.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                for pipe in self._pipes.values():
                    await pipe.settle(*inputs)

    def kill(self) -> None:
        """Kill every process of the container."""
        if self._program is not None:
            self._program.kill()

    async def aclose(self, *, grace_s: float = 0) -> None:
        """Wait up to `grace_s` seconds for the container's end, then kill it; release all that it has. Idempotent."""
        if self._program is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.exited.wait(), grace_s)
            self._program.kill()
            _, late = await asyncio.wait(self._tasks, timeout=_REAP_S)
            for task in late:
                task.cancel()
            await self._program.aclose()
        for pipe in self._pipes.values():
            pipe.close()
        self._on_end()
        for mount in self.mounts.values():
            await mount.discard()
        if self._own_root is not None:
            await self._layers.close(self._own_root)
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    @contextmanager
    def _unrooted(self, code: Path, argv: list[str]) -> Iterator[tuple[list[str], list[int]]]:
        """Give the argv that starts `argv` on this machine's system, and the descriptors that it inherits."""
        env = order_descriptor(environment(self._program_env()))
        try:
            yield [*self._bubblewrap(code, env), *argv], [env]
        finally:
            os.close(env)

    def _bubblewrap(self, code: Path, env: int) -> list[str]:
        argv = system_root()
        argv += ["--args", str(env), "--tmpfs", CODE_ROOT]
        workdir = self._image.config.workdir or CODE_ROOT
        own = interpreter_paths()
        split = [*own, *self.mounts, workdir]
        if self._image.directory is not None:
            split += layouts.common_directories(code, self._image.directory / layouts.TREE)
        for source_path, path in self._image.binds(split):
            argv += ["--ro-bind", str(source_path), path]
        for path in own:
            argv += ["--ro-bind", path, path]
        for path in self._image.config.directories:
            argv += ["--dir", path]
        for source_path, path in layouts.tree_binds(code, split=split):
            argv += ["--ro-bind", str(source_path), path]
        for target, mount in self.mounts.items():
            argv += ["--ro-bind" if target in self._read_only else "--bind", str(mount.path), target]
        argv += ["--ro-bind", str(self._directory / "arguments.pb"), "/run/modal/arguments.pb"]
        argv += ["--ro-bind", guest_output.__file__, _GUEST_OUTPUT]
        return [*argv, "--chdir", workdir, "--"]

    @contextmanager
    def _rooted(self, code: Path, argv: list[str]) -> Iterator[tuple[list[str], list[int]]]:
        """Give the argv that starts `argv` on the image's own root file system, and the descriptors to inherit."""
        root = self._root
        if root is None:
            root = self._own_root = self._layers.open(self._image.config.layers)
        workdir = self._image.config.workdir or CODE_ROOT
        places = Places()
        binds: list[tuple[Path, str, bool]] = [(Path(path), path, True) for path in interpreter_paths()]
        binds += [(path, target, True) for path, target in layouts.tree_binds(code, split=[*self.mounts, workdir])]
        binds += [(mount.path, target, target in self._read_only) for target, mount in self.mounts.items()]
        binds += [(self._directory / "arguments.pb", "/run/modal/arguments.pb", True)]
        binds += [(Path(guest_output.__file__), _GUEST_OUTPUT, True)]
        binds += [(Path(path), path, True) for path in ("/etc/resolv.conf", "/etc/hosts") if Path(path).is_file()]
        words: list[Word] = []
        for source, target, read_only in binds:
            words += places.bind(source, target, read_only=read_only)
        words += ["--chdir", places.directory(workdir), "--", *argv]
        with started(root, places, words, env=self._program_env(), seccomp=self._seccomp, owner=ids().root) as found:
            yield found

    async def _reap(self, program: Program) -> None:
        self.exit_code = await program.wait()
        for pipe in self._pipes.values():
            pipe.hurry()
        self.exited.set()
