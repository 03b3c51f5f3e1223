"""Builds images that have a root file system of their own: a layer for each step, found again by what made it."""

import asyncio
import hmac
import json
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from workbench.local_cloud.base import host
from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError
from workbench.local_cloud.base.errors import CloudError
from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.base.threads import to_its_end
from workbench.local_cloud.images import dockerfile, layouts
from workbench.local_cloud.images.build_functions import BuildFunctions
from workbench.local_cloud.images.build_sandbox import BuildFailedError
from workbench.local_cloud.images.builder import SCRATCH_PREFIX, Builder, Log
from workbench.local_cloud.images.contexts import Context, fingerprint, open_to_all
from workbench.local_cloud.images.dockerfile import Instruction, RefusedError
from workbench.local_cloud.images.downloads import download, file_name
from workbench.local_cloud.images.plans import (
    CallFunction,
    CopyFiles,
    CopyFrom,
    Download,
    ImageConfig,
    MachineBase,
    MakeDirectory,
    MakePython,
    Plan,
    Pull,
    PutUv,
    Run,
    RunMount,
    Step,
    Write,
)
from workbench.local_cloud.images.pulls import Puller, RegistryAccess
from workbench.local_cloud.images.reading import PYTHON_IMAGE
from workbench.local_cloud.images.room import with_its_reason
from workbench.local_cloud.images.rooted_run import RunStep
from workbench.local_cloud.images.rooted_steps import RootedPlan
from workbench.local_cloud.images.run_mounts import BIND
from workbench.local_cloud.images.step_mounts import StepMounts, copy_of
from workbench.local_cloud.rootfs.bases import machine_layer
from workbench.local_cloud.rootfs.copying import CopyRefusedError
from workbench.local_cloud.rootfs.ids import NoRangeError
from workbench.local_cloud.rootfs.layers import LayerError, Layers, Root
from workbench.local_cloud.rootfs.machine_base import NoMachineBaseError

_VERSION = 3  # to be raised when the same step makes other files from then on
_PYTHON = "Image"
Make = Callable[[Root], Coroutine[Any, Any, None]]


class RootedBuilder:
    """Builds layers in a store. Files of the build context are laid out below `root`, one directory for each build."""

    def __init__(
        self,
        root: Path,
        layers: Layers,
        *,
        builder: Builder,
        puller: Puller,
        functions: Callable[[], BuildFunctions],
        seccomp: bytes,
    ) -> None:
        """`builder` makes environments of Python; `seccomp` is the filter for programs on a root of their own."""
        self._root = root
        self.layers = layers
        self.builder = builder
        self.puller = puller
        self.functions = functions
        self.seccomp = seccomp

    async def build(
        self,
        plan: Plan,
        *,
        image_id: str,
        parent: Path | None,
        context_mount: str,
        context_files: Mapping[str, bytes],
        log: Log,
        access: RegistryAccess,
        anew: bool,
    ) -> ImageConfig:
        """Build a plan and return the resulting image's config, which names its layers.

        `parent` is the directory of the image below if that shares this machine's system; with `anew`, no layer of an
        earlier build is used for the plan's own steps. Raises RefusedError, BuildFailedError, CloudError, OSError.
        """
        assert isinstance(plan, RootedPlan)
        scratch = self._scratch()
        stack = AsyncExitStack()
        try:
            context = Context(scratch / "context", lambda at: self.builder.fill(at, context_mount, context_files))
            mounts = StepMounts(self.layers, stack)
            build = _Build(self, plan, scratch, parent, context, mounts, log, access, salt=image_id if anew else "")
            config = await with_its_reason(scratch, build.stage(len(plan.stages.stages) - 1))
            return config if plan.call is None else replace(config, layers=await build.call(plan.call, config))
        except (NoRangeError, NoMachineBaseError, IsolationUnavailableError, CopyRefusedError) as error:
            raise RefusedError(str(error)) from error
        except LayerError as error:
            raise BuildFailedError(f"{str(error).rstrip('.')}.") from error
        finally:
            await asyncio.shield(stack.aclose())
            await asyncio.shield(asyncio.to_thread(remove_tree, scratch))

    def _scratch(self) -> Path:
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=self._root))
        scratch.chmod(0o711)
        return scratch


class _Build:
    """Builds the stages of one layer, each when it is first needed."""

    def __init__(
        self,
        builder: RootedBuilder,
        plan: RootedPlan,
        scratch: Path,
        parent: Path | None,
        context: Context,
        mounts: StepMounts,
        log: Log,
        access: RegistryAccess,
        *,
        salt: str,
    ) -> None:
        self._owner = builder
        self._layers = builder.layers
        self._stages = plan.stages
        self._scratch = scratch
        self._parent = parent
        self._context = context
        self._mounts = mounts
        self._log = log
        self._access = access
        self._salt = salt
        self._built: dict[int, ImageConfig] = {}
        self._pulled: dict[str, ImageConfig] = {}
        self._runs = RunStep(seccomp=builder.seccomp, log=log)

    async def stage(self, number: int) -> ImageConfig:
        """Build a stage, unless that has been done, and return its config."""
        if number not in self._built:
            stage = self._stages.stages[number]
            self._log(f"FROM {stage.base}{f' AS {stage.name}' if stage.name else ''}\n", 1)
            config = await self._origin(self._stages.base(number))
            reader = self._stages.reader(number, config)
            for instruction in (*dockerfile.instructions(config.on_build), *stage.instructions):
                self._log(f"{instruction}\n", 1)
                for step in reader.steps(instruction):
                    reader.change(layers=await self._named_step(instruction, step, reader.config))
            self._built[number] = reader.config
        return self._built[number]

    async def call(self, step: CallFunction, config: ImageConfig) -> tuple[str, ...]:
        """Call a function on an image, and return the layers that the image has from then on."""

        async def make(root: Root) -> None:
            await self._owner.functions().call(step, config, root, self._log)

        self._log("run_function\n", 1)
        return await self._layer(config, "Function", step.parts(), make)

    async def _origin(self, origin: ImageConfig | int | Step) -> ImageConfig:
        """Return the config of what a name stands for, after it has been made."""
        match origin:
            case int():
                return await self.stage(origin)
            case ImageConfig() if origin.layers:
                return origin
            case ImageConfig():
                return await self._of_this_machine(origin)
            case MachineBase() if origin.python:
                own = ImageConfig(python=origin.python, env={"PATH": layouts.IMAGE_PATH})
                return await self._with_python(own, origin.packages, None)
            case MachineBase():
                key = await self._machine_layer(origin.packages)
                return ImageConfig(layers=(key,), guest_python="/usr/bin/python3")
            case Pull():
                return await self._pull(origin.name)
            case _:
                return ImageConfig(layers=await self._layer(ImageConfig(), "Scratch", [], _nothing))

    async def _named_step(self, instruction: Instruction, step: Step, config: ImageConfig) -> tuple[str, ...]:
        """Carry out a step; a failure names its instruction."""
        if isinstance(step, CopyFrom):
            await self._copied_from(step)  # whose failures have names of their own
        try:
            return await self._step(step, config)
        except (RefusedError, BuildFailedError, CopyRefusedError, LayerError) as error:
            text = str(error)
            if str(instruction) not in text:
                text = f"{text.rstrip('.')}. The step was: {str(instruction)[:500]}"
            raise (RefusedError if isinstance(error, RefusedError) else BuildFailedError)(text) from error

    async def _step(self, step: Step, config: ImageConfig) -> tuple[str, ...]:
        """Carry out a step and return the layers that the image has from then on."""
        kind = type(step).__name__
        parts: list[Any] = [asdict(step)]
        match step:
            case Run():
                return await self._run(step, config)
            case CopyFiles():
                files = await self._context.files()
                return await self._copy(step, config, files)
            case CopyFrom():
                found = await self._copied_from(step)
                parts = [asdict(step.copy), found.layers]
                make = partial(self._laid, step.copy, {"from": self._paths(found.layers)})
            case Write():
                files = self._context.beside()
                await to_its_end((files / step.name).write_text, step.text, encoding="utf-8")
                return await self._copy(replace(step.copy, sources=(step.name,)), config, files)
            case Download():
                return await self._download(step, config)
            case MakeDirectory():
                make = partial(self._make_directory, step)
            case PutUv():
                program = await asyncio.to_thread(_own_program, step.program)
                if not await self._runs_in(program, config):
                    self._log(
                        f"This machine's {step.program} does not run in the image: the one of {step.origin} is taken\n",
                        1,
                    )
                    found = await self._pull(step.origin)
                    parts = [asdict(step.copy), found.layers]
                    make = partial(self._laid, step.copy, {"from": self._paths(found.layers)})
                else:
                    make = partial(self._put, program, step.path)
            case _:
                raise RefusedError(f"{kind} is no step of an image with a root of its own.")
        return await self._layer(config, kind, parts, make)

    async def _layer(self, config: ImageConfig, kind: str, parts: list[Any], make: Make) -> tuple[str, ...]:
        """Add the layer that a step makes, or the one that the same step has made before; returns all layers."""
        config = replace(config, layers=await self._layers.squashed(config.layers))
        key = self._key(config, kind, parts)
        if self._layers.has(key):
            self._log("it is there already\n", 1)
        await self._layers.once(key, lambda root: with_its_reason(self._layers.store, make(root)), below=config.layers)
        return (key, *config.layers)

    def _key(self, config: ImageConfig, kind: str, parts: list[Any]) -> str:
        named = [_VERSION, config.layers, kind, parts, self._salt]
        return hmac.new(self._layers.private, json.dumps(named).encode(), "sha256").hexdigest()[:32]

    async def _copied_from(self, step: CopyFrom) -> ImageConfig:
        return await self._origin(self._stages.origin(step.origin, before=step.stage, counted=True))

    async def _pull(self, name: str) -> ImageConfig:
        if name in self._pulled:
            return self._pulled[name]
        try:
            layers, config = await self._owner.puller.base(name, self._access, self._log)
        except CloudError as error:
            python = PYTHON_IMAGE.match(name)
            if python is None:
                raise
            version = python.group(1)
            raise BuildFailedError(
                f"Python {version} is not installed on this machine: run `uv python install {version}`. "
                f"Its image cannot be pulled: {error.message}"
            ) from error
        self._pulled[name] = ImageConfig(
            layers=layers,
            env=dict(config.env),
            entrypoint=config.entrypoint,
            cmd=config.cmd,
            user="" if config.user in ("root", "0", "0:0") else config.user,
            workdir=config.workdir or None,
            shell=config.shell or ImageConfig().shell,
            on_build=config.on_build,
        )
        return self._pulled[name]

    async def _machine_layer(self, packages: tuple[str, ...]) -> str:
        key, said = await machine_layer(self._layers, packages, lambda text: self._log(f"{text}\n", 1))
        self._log(f"{said}\n", 1)
        return key

    async def _of_this_machine(self, parent: ImageConfig) -> ImageConfig:
        """Give an image that shares this machine's system a root file system of its own, with the same files."""
        own = replace(parent, env={"PATH": layouts.IMAGE_PATH, **parent.env}, directories=())
        config = await self._with_python(own, parent.packages, self._parent)
        for path in parent.directories:
            config = replace(config, layers=await self._step(MakeDirectory(path, ""), config))
        return config

    async def _with_python(self, own: ImageConfig, packages: tuple[str, ...], image: Path | None) -> ImageConfig:
        """Lay the files of an image's directory, with an environment of its Python, over this machine's base."""
        config = replace(own, layers=(await self._machine_layer(packages),))
        name = image.name if image is not None else ""
        if image is None or not config.interpreter:
            known = await self._known_python(config, name)
            if known is not None:
                return known
            made = self._scratch / "python"
            plan = Plan(replace(config, layers=()), [MakePython(config.python)])
            found = await self._owner.builder.build(
                plan, directory=made, parent=image, context_mount="", context_files={}, secrets={}, log=self._log
            )
            config = replace(found, layers=config.layers)
            image = made
        parts = _python_parts(config, name)
        layers = await self._layer(config, _PYTHON, parts, partial(self._lay_image, image))
        return replace(config, layers=layers, guest_python=layouts.PYTHON)

    async def _known_python(self, config: ImageConfig, name: str) -> ImageConfig | None:
        """Return the config with the environment of an earlier build, None if there is none."""
        for found in await asyncio.to_thread(host.interpreters, config.python):
            made = replace(config, interpreter=found.path, interpreter_prefix=found.prefix)
            key = self._key(made, _PYTHON, _python_parts(made, name))
            if self._layers.has(key):
                return replace(made, layers=(key, *config.layers), guest_python=layouts.PYTHON)
        return None

    async def _lay_image(self, image: Path, root: Root) -> None:
        found = {name: str(image / name) for name in layouts.PARTS if (image / name).is_dir()}
        await self._layers.work("files", target=root.upper, open=found, into=dict.fromkeys(found, "/"))

    async def _run(self, step: Run, config: ImageConfig) -> tuple[str, ...]:
        async def make(root: Root) -> None:
            async with AsyncExitStack() as stack:
                paths = await self._mounts.paths(step.mounts, partial(self._source, step), stack)
                made = await self._runs.run(step, config, root, paths, self._stages.secrets)
            if made:
                await self._layers.work("unmake", target=root.upper, paths=made)

        parts = [asdict(step), [await self._mounted(step, mount) for mount in step.mounts]]
        return await self._layer(config, "Run", parts, make)

    async def _mounted(self, step: Run, mount: RunMount) -> Any:
        """Return what decides a layer of the files that are mounted while it is made."""
        if mount.origin:
            return (await self._origin_of(step, mount)).layers
        if mount.kind != BIND:
            return ""
        files = await self._context.files()
        await to_its_end(open_to_all, files)
        return await asyncio.to_thread(fingerprint, files, copy_of(mount))

    async def _source(self, step: Run, mount: RunMount) -> Mapping[str, Any]:
        if mount.origin:
            return {"from": self._paths((await self._origin_of(step, mount)).layers)}
        return {"context": str(await self._context.files())}

    async def _origin_of(self, step: Run, mount: RunMount) -> ImageConfig:
        return await self._origin(self._stages.origin(mount.origin, before=step.stage, counted=True))

    async def _copy(self, step: CopyFiles, config: ImageConfig, files: Path) -> tuple[str, ...]:
        await to_its_end(open_to_all, files)
        parts = [asdict(step), await asyncio.to_thread(fingerprint, files, step)]
        return await self._layer(config, "Copy", parts, partial(self._laid, step, {"context": str(files)}))

    async def _laid(self, step: CopyFiles, source: Mapping[str, Any], root: Root) -> None:
        """Copy files into a root; `source` says to the store's worker where they are."""
        said = await self._layers.work(
            "copy", lower=root.lower, upper=root.upper, work=root.work, step=asdict(step), **source
        )
        self._log(f"{said['files']} files to {step.destination}\n", 1)

    def _paths(self, layers: tuple[str, ...]) -> list[str]:
        return [self._layers.path(key) for key in layers]

    async def _download(self, step: Download, config: ImageConfig) -> tuple[str, ...]:
        name = file_name(step.url)
        files = self._context.beside()
        await download(step.url, files / name, checksum=step.checksum)
        return await self._copy(replace(step.copy, sources=(name,)), config, files)

    async def _make_directory(self, step: MakeDirectory, root: Root) -> None:
        await self._layers.work(
            "directory", lower=root.lower, upper=root.upper, work=root.work, path=step.path, owner_name=step.owner
        )

    async def _runs_in(self, program: Path, config: ImageConfig) -> bool:
        """Whether a program of this machine runs in an image, whose C library may be another one."""
        if config.guest_python:
            return True  # it has this machine's system
        async with self._layers.root(config.layers) as root:
            return await self._runs.can_run(program, root)

    async def _put(self, program: Path, path: str, root: Root) -> None:
        await self._layers.put(root, {path: await asyncio.to_thread(program.read_bytes)}, mode=0o755)


def _own_program(name: str) -> Path:
    """Return the path of this machine's uv or uvx. Raises RefusedError."""
    uv = host.uv()
    if uv is None or not (program := Path(uv).with_name(name)).is_file():
        raise RefusedError(f"{name} is not installed on this machine. Run `pip install uv`.")
    return program


def _python_parts(config: ImageConfig, name: str) -> list[str]:
    """Return what decides the files of a Python environment, which are laid over those of the image `name`."""
    return [name, config.python, config.interpreter, sys.version]


async def _nothing(root: Root) -> None:
    del root
