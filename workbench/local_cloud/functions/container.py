"""One function container: the SDK's own entrypoint in a bubblewrap of its own.

It runs the deployer's code, which is trusted more than what runs in a sandbox. It has its own root, process ids and
volume mounts, so that paths are as on Modal and one kill ends everything. Where this machine can make one, it has a
root file system of its own, as a sandbox has; else it shares the machine's system. It shares the host's network in any
case, because it must reach the cloud.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
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
from workbench.local_cloud.functions import guest_start
from workbench.local_cloud.images import layouts
from workbench.local_cloud.images.environments import packages_of_cloud
from workbench.local_cloud.images.images import Image
from workbench.local_cloud.rootfs.ids import give_to_root_inside, ids
from workbench.local_cloud.rootfs.layers import Root, order_descriptor
from workbench.local_cloud.rootfs.mounting import Places, Word, environment
from workbench.local_cloud.rootfs.starting import ordered
from workbench.local_cloud.rootfs.warm_launchers import WarmLaunchers
from workbench.local_cloud.volumes.working_copies import WorkingCopy

CODE_ROOT = "/root"
_ENTRYPOINT = "modal._container_entrypoint"
_START = "/run/modal/start.py"
_NAMES = ("/etc/resolv.conf", "/etc/hosts")
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
_REFILL_S = 0.4  # the next launcher does not take the processor from this start
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
        held: AsyncExitStack,
        scratch: Path,
        seccomp: bytes,
        launchers: WarmLaunchers,
        root: Root | None,
    ) -> None:
        """`held` is all that it has, to be released at its end. One of `launchers` starts it on its `root`.

        Without a `root` it shares this machine's system.
        """
        self.task_id = task_id
        self.arguments = arguments
        self.mounts = mounts
        self.exited = asyncio.Event()
        self.exit_code: int | None = None
        self._env = env
        self._read_only = read_only
        self._image = image
        self._seccomp = seccomp
        self._launchers = launchers
        self._root = root
        self._held = held
        self.on_output = on_output
        self._lay_out = lay_out
        self._pipes = {
            fd: OutputPipe(partial(on_output, fd), framed=inputs_together)
            for fd in (api_pb2.FILE_DESCRIPTOR_STDOUT, api_pb2.FILE_DESCRIPTOR_STDERR)
        }
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
        argv = [*self._image.config.entrypoint, *self._python(), _START, _ENTRYPOINT]
        if self._inputs_together:
            argv.append(guest_start.TOGETHER)
        if self._root is not None:
            await asyncio.to_thread(give_to_root_inside, self._directory)
            await self._start_rooted(self._root, code, argv)
        else:
            await self._start_shared(code, argv)
        for pipe in self._pipes.values():
            pipe.started()
        assert self._program is not None
        works = [*(pipe.run() for pipe in self._pipes.values()), self._reap(self._program)]
        self._tasks = [asyncio.create_task(work) for work in works]

    def _program_env(self) -> dict[str, str]:
        return {**self._env, "MODAL_CONTAINER_ARGUMENTS_PATH": "/run/modal/arguments.pb"}

    def _python(self) -> list[str]:
        """Return the words that start the Python in which the function runs."""
        if self._image.is_rooted and not self._image.python:
            own, sdk = packages_of_cloud(), metadata.version("modal")
            return ["/bin/sh", "-c", _FIND_PYTHON, "sh", host.OWN_PYTHON, own, sdk]
        return [self._image.python or sys.executable]

    @property
    def pid(self) -> int:
        """The process id of the container's bubblewrap, 0 before it is started."""
        return self._program.pid if self._program is not None else 0

    def interrupt(self) -> None:
        """Send SIGINT to the entrypoint, as Modal does when it preempts a container."""
        for process in family(self.pid) if self.pid else ():
            with suppress(psutil.Error):
                if process.cmdline()[1:3] == [_START, _ENTRYPOINT]:
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
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
        await self._held.aclose()

    @property
    def _workdir(self) -> str:
        return self._image.config.workdir or CODE_ROOT

    def _binds(self, code: Path) -> list[tuple[Path, str, bool]]:
        """Return what of the host is seen inside, as (path, path inside, read-only), outer paths before inner ones."""
        own = interpreter_paths()
        split = [*own, *self.mounts, self._workdir]
        if self._root is not None:
            trees = self._root.below
        else:
            trees = [self._image.directory / layouts.TREE] if self._image.directory is not None else []
        split += layouts.common_directories(code, trees)
        found = [] if self._root is not None else [(path, target, True) for path, target in self._image.binds(split)]
        found += [(Path(path), path, True) for path in own]
        found += [(path, target, True) for path, target in layouts.tree_binds(code, split=split)]
        found += [(mount.path, target, target in self._read_only) for target, mount in self.mounts.items()]
        found += [(self._directory / "arguments.pb", "/run/modal/arguments.pb", True)]
        found += [(Path(guest_start.__file__), _START, True)]
        if self._root is not None:
            found += [(path, str(path), True) for path in map(Path, _NAMES) if path.is_file()]
        return found

    async def _start_shared(self, code: Path, argv: list[str]) -> None:
        """Start `argv` on this machine's system."""
        env = order_descriptor(environment(self._program_env()))
        words = [*system_root(), "--args", str(env), "--tmpfs", CODE_ROOT]
        for path in self._image.config.directories:
            words += ["--dir", path]
        for source, target, read_only in self._binds(code):
            words += ["--ro-bind" if read_only else "--bind", str(source), target]
        words += ["--chdir", self._workdir, "--", *argv]
        out, err = (pipe.fd for pipe in self._pipes.values())
        try:  # the program inside gets its environment from bubblewrap
            self._program = await Program.start(
                *words, env={"PATH": os.defpath}, stdout=out, stderr=err, pass_fds=[env]
            )
        finally:
            os.close(env)

    async def _start_rooted(self, root: Root, code: Path, argv: list[str]) -> None:
        """Start `argv` on a root file system."""
        places = Places()
        for path in self._image.config.directories:
            places.directory(path)
        words: list[Word] = []
        for source, target, read_only in self._binds(code):
            words += places.bind(source, target, read_only=read_only)
        words += ["--chdir", places.directory(self._workdir), "--", *argv]
        env, output = self._program_env(), [pipe.fd for pipe in self._pipes.values()]
        with ordered(root, places, words, env=env, seccomp=self._seccomp, owner=ids().root) as (order, descriptors):
            self._program = await self._launchers.start(order, descriptors, output=output)
        asyncio.get_running_loop().call_later(_REFILL_S, self._launchers.refill)

    async def _reap(self, program: Program) -> None:
        self.exit_code = await program.wait()
        for pipe in self._pipes.values():
            pipe.hurry()
        self.exited.set()
