"""Builds a layer's directory: in scratch first, renamed into place when it is whole. A kill leaves nothing half made.

What a layer does not change is shared with its parent by hard links: images are only ever read once they are built.
"""

import asyncio
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.images import host, layouts
from workbench.local_cloud.images.adopted import adopt
from workbench.local_cloud.images.build_sandbox import BuildFailedError, Workshop
from workbench.local_cloud.images.copying import copy_into
from workbench.local_cloud.images.dockerfile import RefusedError
from workbench.local_cloud.images.installs import NpmInstall, PipInstall, UvSync
from workbench.local_cloud.images.interpreters import copy_python
from workbench.local_cloud.images.plans import Adopt, Copy, MakePython, Meaning, Plan

SCRATCH_PREFIX = "tmp-"
# The parts of an image, and the steps that write to each. A copied Python is only ever made with the first `venv`.
_WRITERS = {
    layouts.COPIED_PYTHON: (),
    "venv": (Adopt, PipInstall, UvSync, MakePython),
    "npm": (NpmInstall,),
    layouts.TREE: (Copy,),
}
_COPY_S = 600
Log = Callable[[str, int], None]
# Runs in the workshop, since the environment is written by strangers' code. Its own packages come first on sys.path.
_OFFER_THE_CLOUD = """
import glob, sys
for packages in glob.glob(sys.argv[1] + "/lib/python3*/site-packages"):
    with open(packages + "/zz-local-cloud.pth", "w") as file:
        file.write(sys.argv[2] + "\\n")
"""
# No set-user-id file may lie where others of this machine can reach it; and sandboxes have users of their own.
_SEAL = ("chmod", "-R", "u-s,g-s,a+rX")


class Builder:
    """Builds below one directory, `root`; `lay_out` writes the files of mounts into a directory."""

    def __init__(self, root: Path, *, lay_out: Callable[[list[str], Path], None]) -> None:
        self._root = root
        self._lay_out = lay_out
        self._sound: set[str] = set()  # interpreters that have been seen to run the SDK
        for leftover in root.glob(f"{SCRATCH_PREFIX}*"):
            remove_tree(leftover)

    async def build(
        self,
        plan: Plan,
        *,
        directory: Path,
        parent: Path | None,
        context_mount: str,
        context_files: Mapping[str, bytes],
        secrets: Mapping[str, str],
        log: Log,
    ) -> Meaning:
        """Build a plan into `directory`; returns what the image means then. Raises RefusedError or BuildFailedError."""
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=self._root))
        try:
            env = {"PATH": layouts.IMAGE_PATH, **plan.meaning.env, **secrets}
            writes = [name for name in ("venv", "npm") if _changes(plan, name)]
            shop = Workshop(scratch, env=env, workdir=plan.meaning.workdir or "/", writes=writes, log=log)
            shop.python_prefix = plan.meaning.interpreter_prefix
            await self._begin(shop, plan, parent)
            context = scratch / "context"
            if any(isinstance(step, Copy) for step in plan.steps):
                await asyncio.to_thread(self._fill, context, context_mount, context_files)
            build = _Build(shop, plan.meaning, context, log, sound=self._sound)
            for step in plan.steps:
                await build.take(step)
            if writes:
                await shop.run([*_SEAL, *(f"{layouts.IMAGE_ROOT}/{name}" for name in writes)])
            await asyncio.to_thread(_open_directories, shop.image)
            shop.image.rename(directory)
            return build.meaning
        finally:
            await asyncio.shield(asyncio.to_thread(remove_tree, scratch))

    async def _begin(self, shop: Workshop, plan: Plan, parent: Path | None) -> None:
        shop.image.mkdir()
        for name in _WRITERS:
            source = parent / name if parent is not None else None
            if source is None or not source.is_dir():
                (shop.image / name).mkdir(mode=0o755)
            else:
                await _duplicate(source, shop.image / name, copy=_changes(plan, name))

    def _fill(self, context: Path, mount_id: str, files: Mapping[str, bytes]) -> None:
        context.mkdir()
        if mount_id:
            self._lay_out([mount_id], context)
        for name, data in files.items():
            if ".." in Path(name).parts:
                raise RefusedError("A file of the build context has '..' in its name.")
            path = context / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


class _Build:
    """Takes the steps of one layer in their order."""

    def __init__(self, shop: Workshop, meaning: Meaning, context: Path, log: Log, *, sound: set[str]) -> None:
        self.meaning = meaning
        self._shop = shop
        self._context = context
        self._log = log
        self._sound = sound

    async def take(self, step: object) -> None:
        match step:
            case Copy():
                laid = await asyncio.to_thread(copy_into, self._context, self._shop.image / layouts.TREE, step)
                self._log(f"COPY: {laid} files to {step.destination}\n", 1)
            case MakePython():
                await self._make_python()
            case Adopt():
                await self._with_environment()
                names = [package.partition("==")[0] for package in step.packages]
                await asyncio.to_thread(adopt, names, self._shop.image / "venv")
                for package in step.packages:
                    self._log(f"{package} is taken from the local cloud's own environment\n", 1)
            case PipInstall():
                await self._with_environment()
                await self._install(self._expanded(step.arguments))
            case UvSync():
                await self._with_environment()
                await self._sync(list(step.arguments))
            case NpmInstall():
                argv = ["npm", "install", "--global", "--prefix", layouts.NPM_PREFIX, "--no-fund", "--no-audit"]
                node = host.npm()
                assert node is not None  # asked for when the layer was read
                await self._shop.run(
                    [node[0], node[1], *argv[1:], *self._expanded(step.arguments)], env=_node_path(node[0])
                )
                if not node[0].startswith("/usr/"):
                    await self._bring_node(node[0])

    async def _with_environment(self) -> None:
        """Make the environment that things are installed into, unless the image has one."""
        if not self.meaning.interpreter:
            await self._make_environment(self.meaning.python)

    async def _make_environment(self, version: str) -> None:
        own = version == host.OWN_PYTHON
        problem = ""
        for interpreter in host.interpreters(version):
            try:
                await self._bring_python(interpreter)
                await self._venv(interpreter.path)
                if own:
                    await self._offer_the_cloud(interpreter.path)
                    if interpreter.path not in self._sound:
                        await self._check()
                    self._sound.add(interpreter.path)
            except BuildFailedError as error:
                problem = str(error)
                self._log(f"{interpreter.path} does not do: {problem}\n", 2)
                await asyncio.to_thread(remove_tree, self._shop.image / layouts.COPIED_PYTHON)
                continue
            self.meaning = replace(
                self.meaning, interpreter=interpreter.path, interpreter_prefix=interpreter.prefix, python=version
            )
            return
        raise BuildFailedError(f"No environment can be made with Python {version}. {problem}")

    async def _bring_python(self, interpreter: host.Interpreter) -> None:
        """Copy an interpreter outside of /usr into the image."""
        self._shop.python_prefix = interpreter.prefix
        if interpreter.prefix:
            destination = self._shop.image / layouts.COPIED_PYTHON
            await asyncio.to_thread(copy_python, Path(interpreter.path), Path(interpreter.prefix), destination)

    async def _venv(self, python: str) -> None:
        if host.uv() is not None:
            argv = ["uv", "venv", "--quiet", "--allow-existing", "--no-project", "--python", python, layouts.VENV]
        else:
            argv = [python, "-m", "venv", "--clear", layouts.VENV]
        await self._shop.run(argv)

    async def _offer_the_cloud(self, python: str) -> None:
        """Put the cloud's own packages behind the image's: the entrypoint needs them, the image's versions win."""
        own = str(metadata.distribution("modal").locate_file(""))
        await self._shop.run([python, "-I", "-S", "-c", _OFFER_THE_CLOUD, layouts.VENV, own])

    async def _check(self) -> None:
        argv = [layouts.PYTHON, "-c", "import ssl, sqlite3, modal._container_entrypoint"]
        await self._shop.run(argv, with_cloud=self.meaning.python == host.OWN_PYTHON)

    async def _make_python(self) -> None:
        version = self.meaning.python
        await self._make_environment(version)
        if version == host.OWN_PYTHON:
            return
        self._log(f"Python {version} is not the local cloud's own: installing the SDK for it\n", 1)
        await self._install([f"modal=={metadata.version('modal')}"])
        await self._check()

    async def _install(self, arguments: list[str]) -> None:
        if host.uv() is not None:
            argv = ["uv", "pip", "install", "--python", layouts.PYTHON, *arguments]
        else:
            argv = [layouts.PYTHON, "-m", "pip", "install", *arguments]
        await self._shop.run(argv)

    async def _sync(self, arguments: list[str]) -> None:
        if host.uv() is None:
            raise RefusedError("uv is not installed on this machine. Run `pip install uv`.")
        project = self._shop.image / layouts.TREE / ".uv"
        if not (project / "pyproject.toml").is_file():
            raise RefusedError("uv sync is interpreted as Image.uv_sync writes it: with the project copied to /.uv.")
        copy = self._shop.image.parent / "project"
        await asyncio.to_thread(shutil.copytree, project, copy)
        await self._shop.run(
            ["uv", "sync", "--inexact", "--python", layouts.PYTHON, *arguments],
            env={"UV_PROJECT_ENVIRONMENT": layouts.VENV},
            writable=[(copy, "/.uv")],  # it writes a lock file where there is none
        )

    async def _bring_node(self, node: str) -> None:
        """Put a copy of Node beside its packages: sandboxes see of this machine only what is below /usr."""
        bin_directory = f"{layouts.NPM_PREFIX}/bin"
        await self._shop.run(["/bin/sh", "-c", f'mkdir -p {bin_directory} && cp "$0" {bin_directory}/node', node])

    def _expanded(self, arguments: tuple[str, ...]) -> list[str]:
        """Replace patterns of absolute paths by the image's files that match, as a shell would."""
        found: list[str] = []
        tree = self._shop.image / layouts.TREE
        for word in arguments:
            matches = []
            if word.startswith("/") and glob.has_magic(word) and ".." not in word:
                matches = [f"/{path.relative_to(tree)}" for path in sorted(tree.glob(word.lstrip("/")))]
            found += matches or [word]
        return found


def _open_directories(image: Path) -> None:
    """Let sandboxes' users into the directories that we have made, whatever the umask was."""
    image.chmod(0o755)
    for name in _WRITERS:
        (image / name).chmod(0o755)
    for ours in (layouts.TREE, layouts.COPIED_PYTHON):
        for directory, _, _ in os.walk(image / ours):
            Path(directory).chmod(0o755)


def _changes(plan: Plan, part: str) -> bool:
    return any(isinstance(step, _WRITERS[part]) for step in plan.steps)


def _node_path(node: str) -> dict[str, str]:
    return {} if node.startswith("/usr/") else {"PATH": f"{Path(node).parent}:{layouts.SYSTEM_PATH}"}


async def _duplicate(source: Path, destination: Path, *, copy: bool) -> None:
    """Copy a tree with its links as links, the blocks shared where the file system can; or share its files."""
    how = ["cp", "-a", "--reflink=auto"] if copy else ["cp", "-al"]
    program = await Program.start(*how, "--", str(source), str(destination), stdout=asyncio.subprocess.DEVNULL)
    async with aclosing(program), asyncio.timeout(_COPY_S):
        said = await program.stderr.read()
        code = await program.wait()
    if code:
        raise BuildFailedError(f"The parent's files cannot be copied: {said.decode(errors='replace')[:300]}")
