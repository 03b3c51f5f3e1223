"""Builds images that have a root file system of their own: one layer for each step, found again by what it is made of.

RUN steps are programs of the image, run as root of its file system and as nobody outside, with the network, since
packages come from there, and with this machine's configuration of pip, uv and npm.
"""

import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.images import build_sandbox, host, layouts
from workbench.local_cloud.images.build_sandbox import BuildFailedError
from workbench.local_cloud.images.builder import SCRATCH_PREFIX, Builder, Log
from workbench.local_cloud.images.dockerfile import RefusedError
from workbench.local_cloud.images.plans import (
    DEFAULT_SHELL,
    CopyIn,
    ImageConfig,
    MachineBase,
    MakeDirectory,
    MakePython,
    Plan,
    Pull,
    PutUv,
    Run,
    Scratch,
    Step,
)
from workbench.local_cloud.images.pulls import Puller, RegistryAccess
from workbench.local_cloud.rootfs.bases import machine_layer
from workbench.local_cloud.rootfs.host_python import mount_host_python, started_by_host_python
from workbench.local_cloud.rootfs.ids import NoRangeError, ids
from workbench.local_cloud.rootfs.layers import LayerError, Layers, Root, order_descriptor
from workbench.local_cloud.rootfs.machine_base import NoMachineBaseError
from workbench.local_cloud.rootfs.mounting import Places, Word, started

_TOOLS = "/__modal/tools"
_AS_USER = "/__modal/as_user.py"
_GUEST_AGENT = Path(__file__).parents[1] / "sandboxes" / "guest" / "agent.py"
_PIP = '#!/bin/sh\nexec {tools}/uv pip "$@"\n'
_VERSION = 1  # to be raised when the same step makes other files from then on


class RootedBuilder:
    """Builds layers in a store. Files of the build context are laid out below `root`, one directory for each build."""

    def __init__(
        self,
        root: Path,
        layers: Layers,
        *,
        builder: Builder,
        puller: Puller,
        seccomp: bytes,
    ) -> None:
        """`builder` makes environments of Python; `seccomp` is the filter for programs on a root of their own."""
        self._root = root
        self._layers = layers
        self.builder = builder
        self.puller = puller
        self._seccomp = seccomp

    async def build(
        self,
        plan: Plan,
        *,
        image_id: str,
        parent: Path | None,
        context_mount: str,
        context_files: Mapping[str, bytes],
        checksum: str,
        log: Log,
        access: RegistryAccess,
        anew: bool,
    ) -> ImageConfig:
        """Build a plan and return the resulting image's config, which names its layers.

        `parent` is the directory of the image below if that shares this machine's system; `checksum` is that of the
        build context; with `anew`, no layer of an earlier build is used for the plan's own steps. Raises RefusedError,
        BuildFailedError.
        """
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=self._root))
        try:
            scratch.chmod(0o711)
            context = scratch / "context"
            if any(isinstance(step, CopyIn) for step in plan.steps):
                await asyncio.to_thread(self.builder.fill, context, context_mount, context_files)
                await asyncio.to_thread(_open_to_all, context)
            build = _Build(self, plan, scratch, parent, context, checksum, log, access, salt=image_id if anew else "")
            for step in plan.steps:
                await build.run(step)
            return build.config
        except (NoRangeError, NoMachineBaseError, IsolationUnavailableError) as error:
            raise RefusedError(str(error)) from error
        except CloudError as error:
            raise BuildFailedError(error.message) from error
        except LayerError as error:
            raise BuildFailedError(f"{str(error).rstrip('.')}.") from error
        finally:
            await asyncio.shield(asyncio.to_thread(remove_tree, scratch))


class _Build:
    """Runs the steps of one layer in their order."""

    def __init__(
        self,
        builder: RootedBuilder,
        plan: Plan,
        scratch: Path,
        parent: Path | None,
        context: Path,
        checksum: str,
        log: Log,
        access: RegistryAccess,
        *,
        salt: str,
    ) -> None:
        self.config = plan.config
        self._owner = builder
        self._layers = builder._layers  # the build is the builder's own part
        self._seccomp = builder._seccomp
        self._scratch = scratch
        self._parent = parent
        self._context = context
        self._checksum = checksum
        self._log = log
        self._access = access
        self._salt = salt

    async def run(self, step: Step) -> None:
        match step:
            case MachineBase():
                await self._machine_base(step.python, step.packages)
            case Scratch():
                await self._layer(step, self._nothing)
            case Pull():
                await self._pull(step.name)
            case Run():
                await self._layer(step, lambda root: self._run(step, root))
            case CopyIn():
                await self._layer(step, lambda root: self._copy(step, root), with_context=True)
            case MakeDirectory():
                await self._layer(step, lambda root: self._make_directory(step, root))
            case PutUv():
                await self._layer(step, lambda root: self._put_uv(step, root))
            case _:
                raise RefusedError(f"{type(step).__name__} is no step of an image with a root of its own.")

    async def _layer(
        self, step: Step, make: Callable[[Root], Awaitable[None]], *, with_context: bool = False, more: str = ""
    ) -> None:
        """Add the layer that a step makes, or the one that the same step has made before."""
        parts = [
            _VERSION,
            self.config.layers,
            type(step).__name__,
            asdict(step),
            self._checksum if with_context else "",
            self._salt,
            more,
        ]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        if self._layers.has(key):
            self._log(f"Found: {_named(step)}\n", 1)
        await self._layers.once(key, make, below=self.config.layers)
        self.config = replace(self.config, layers=(key, *self.config.layers))

    async def _pull(self, name: str) -> None:
        layers, config = await self._owner.puller.base(name, self._access, self._log)
        if config.on_build:
            self._log("The base image's ONBUILD instructions are not carried out.\n", 2)
        own = self.config
        self.config = replace(
            own,
            layers=layers,
            env={**config.env, **own.env},
            entrypoint=own.entrypoint or config.entrypoint,
            cmd=own.cmd or (() if own.entrypoint else config.cmd),
            user=own.user or ("" if config.user in ("root", "0", "0:0") else config.user),
            workdir=own.workdir or config.workdir or None,
            shell=own.shell if own.shell != DEFAULT_SHELL else config.shell or DEFAULT_SHELL,
        )

    async def _machine_base(self, python: str, packages: tuple[str, ...]) -> None:
        key, said = await machine_layer(self._layers, packages)
        self._log(f"{said}\n", 1)
        self.config = replace(self.config, layers=(key,))
        if not python:
            self.config = replace(self.config, guest_python="/usr/bin/python3")
            return
        image = self._parent
        made = None
        if image is None or not self.config.interpreter:
            made = self._scratch / "python"
            plan = Plan(replace(self.config, python=python, layers=()), [MakePython(python)])
            found = await self._owner.builder.build(
                plan, directory=made, parent=image, context_mount="", context_files={}, secrets={}, log=self._log
            )
            self.config = replace(
                self.config,
                interpreter=found.interpreter,
                interpreter_prefix=found.interpreter_prefix,
                python=found.python,
            )
            image = made
        step = MachineBase(python)
        more = f"{self._parent.name if self._parent is not None else ''} {self.config.interpreter} {sys.version}"
        await self._layer(step, lambda root: self._lay_image(image, root), more=more)
        self.config = replace(self.config, guest_python=layouts.PYTHON, directories=())

    async def _lay_image(self, image: Path, root: Root) -> None:
        """Lay the files of an image that shares this machine's system over the base."""
        places = {"venv": layouts.VENV, "npm": layouts.NPM_PREFIX, layouts.TREE: "/"}
        if self.config.interpreter_prefix:
            places[layouts.COPIED_PYTHON] = self.config.interpreter_prefix
        found = {name: str(image / name) for name in places if (image / name).is_dir()}
        await self._layers.work("files", target=root.upper, open=found, into={name: places[name] for name in found})
        script = f'#!/bin/sh\nexec {layouts.PYTHON} "$@"\n'.encode()
        programs = {f"/usr/local/bin/{name}": script for name in ("python", "python3")}
        await self._layers.put(root, programs, mode=0o755)

    async def _nothing(self, root: Root) -> None:
        del root

    async def _copy(self, step: CopyIn, root: Root) -> None:
        said = await self._layers.work(
            "copy",
            context=str(self._context),
            lower=root.lower,
            upper=root.upper,
            work=root.work,
            step=asdict(step),
        )
        self._log(f"COPY: {said['files']} files to {step.destination}\n", 1)

    async def _make_directory(self, step: MakeDirectory, root: Root) -> None:
        await self._layers.work(
            "directory", lower=root.lower, upper=root.upper, work=root.work, path=step.path, owner_name=step.owner
        )

    async def _put_uv(self, step: PutUv, root: Root) -> None:
        uv = host.uv()
        if uv is None:
            raise RefusedError("uv is not installed on this machine. Run `pip install uv`.")
        await self._layers.put(root, {step.path: await asyncio.to_thread(Path(uv).read_bytes)}, mode=0o755)

    async def _run(self, step: Run, root: Root) -> None:
        env = {**build_sandbox.configuration(), "LANG": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
        env |= {**dict(step.env), "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "UV_LINK_MODE": "copy"}
        words = list(step.words)
        if self.config.interpreter:  # an environment of ours, which has no pip: uv takes its place
            env["VIRTUAL_ENV"] = layouts.VENV
            env["PATH"] = f"{_TOOLS}:{env['PATH']}"
            words = [_with_uv(word) for word in words]
        descriptors: list[int] = []

        def data(content: bytes) -> str:
            descriptors.append(order_descriptor(content))
            return str(descriptors[-1])

        places = Places()
        argv = self._bound(places, data)
        if step.user:
            argv += ["--perms", "0444", "--ro-bind-data", data(_GUEST_AGENT.read_bytes()), places.file(_AS_USER)]
            argv += mount_host_python(places)
            words = [*started_by_host_python(), _AS_USER, "as", step.user, *words]
        argv += ["--chdir", places.directory(step.workdir), "--", *words]
        try:
            with started(root, places, argv, seccomp=self._seccomp, owner=ids().root) as (command, inherited):
                await build_sandbox.run_to_end(
                    command, what=f"RUN {step.text}", env=env, log=self._log, pass_fds=[*descriptors, *inherited]
                )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _bound(self, places: Places, data: Callable[[bytes], str]) -> list[Word]:
        """Return bubblewrap's words for what a build has from this machine: names, settings of installers, and uv."""
        argv: list[Word] = []
        for path in ("/etc/resolv.conf", "/etc/hosts"):
            if Path(path).is_file():
                argv += ["--ro-bind-data", data(Path(path).read_bytes()), places.file(path)]
        for source, target in build_sandbox.configured_files():
            argv += ["--ro-bind-data", data(source.read_bytes()), places.file(target)]
        if (uv := host.uv()) is not None and self.config.interpreter:
            argv += places.bind(Path(uv), f"{_TOOLS}/uv", read_only=True)
            for name in ("pip", "pip3"):
                script = _PIP.format(tools=_TOOLS).encode()
                argv += ["--perms", "0555", "--ro-bind-data", data(script), places.file(f"{_TOOLS}/{name}")]
        return argv


def _with_uv(text: str) -> str:
    return text.replace("python -m pip ", "pip ").replace("python3 -m pip ", "pip ")


def _named(step: Step) -> str:
    return f"RUN {step.text[:200]}" if isinstance(step, Run) else type(step).__name__


def _open_to_all(directory: Path) -> None:
    for here, _, names in os.walk(directory):
        Path(here).chmod(0o755)
        for name in names:
            path = Path(here, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o444)
