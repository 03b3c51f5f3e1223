"""Builds a layer's directory under a temporary name and renames it when it is complete, so a kill leaves no half image.

Parts that a layer does not change share their files with the parent by hard links: a built image is never written to.
"""

import asyncio
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path, PurePosixPath

from workbench.local_cloud.base import host
from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.base.threads import to_its_end
from workbench.local_cloud.images import environments, layouts
from workbench.local_cloud.images.adopted import adopt
from workbench.local_cloud.images.build_sandbox import BuildFailedError, BuildSandbox
from workbench.local_cloud.images.copying import copy_into
from workbench.local_cloud.images.dockerfile import RefusedError
from workbench.local_cloud.images.installs import NpmInstall, PipInstall, UvSync
from workbench.local_cloud.images.interpreters import copy_python
from workbench.local_cloud.images.pip_settings import FOR_UV
from workbench.local_cloud.images.plans import Adopt, Copy, ImageConfig, MakePython, Plan
from workbench.local_cloud.images.room import with_its_reason
from workbench.local_cloud.rootfs.ids import NoRangeError, give_to_root_inside

SCRATCH_PREFIX = "tmp-"
# The parts of an image, and the steps that write to each. A copied Python is made once, together with the first `venv`.
_WRITERS = {
    layouts.COPIED_PYTHON: (),
    "venv": (Adopt, PipInstall, UvSync, MakePython),
    "npm": (NpmInstall,),
    layouts.TREE: (Copy,),
}
_COPY_S = 600
Log = Callable[[str, int], None]  # gets each line and its file descriptor, 1 or 2
# Adds the cloud's packages to an image's sys.path, behind the image's own. It runs inside the build's sandbox, because
# code that is not trusted has written to the environment.
_OFFER_THE_CLOUD = """
import glob, sys
for packages in glob.glob(sys.argv[1] + "/lib/python3*/site-packages"):
    with open(packages + "/" + sys.argv[2], "w", encoding="utf-8") as file:
        file.write(sys.argv[3] + "\\n")
"""
# Other users of this machine can read images: they must find no set-user-id files. Sandboxes must be able to read them.
_SEAL = ("chmod", "-R", "u-s,g-s,a+rX")


class Builder:
    """Builds images' directories below one directory."""

    def __init__(self, root: Path, *, lay_out: Callable[[list[str], Path], None]) -> None:
        """Remove what interrupted builds left in `root`. `lay_out` copies the files of mounts into a directory."""
        self._root = root
        self._lay_out = lay_out
        self._checked: set[str] = set()  # interpreters that can import the SDK and what it needs
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
    ) -> ImageConfig:
        """Build a plan into `directory`, which must not exist, and return the resulting image's config.

        `parent` is the directory of the image below, None without one; `context_mount` is the id of the mount with the
        build context, or empty; `context_files` are more files of it by name. Raises RefusedError, BuildFailedError, or
        CloudError when the disk is full.
        """
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=self._root))
        try:
            env = {"PATH": layouts.IMAGE_PATH, **plan.config.env, **secrets}
            writes = [name for name in ("venv", "npm") if _changes(plan, name)]
            sandbox = BuildSandbox(scratch, env=env, workdir=plan.config.workdir or "/", writes=writes, log=log)
            sandbox.python_prefix = plan.config.interpreter_prefix
            await with_its_reason(scratch, self._begin(sandbox, plan, parent))
            context = scratch / "context"
            if any(isinstance(step, Copy) for step in plan.steps):
                filling = to_its_end(self.fill, context, context_mount, context_files)
                await with_its_reason(scratch, filling)
            build = _Build(sandbox, plan.config, context, log, checked=self._checked)
            for step in plan.steps:
                await with_its_reason(scratch, build.run(step))
            if writes:
                await sandbox.run([*_SEAL, *(f"{layouts.IMAGE_ROOT}/{name}" for name in writes)])
            await to_its_end(_open_directories, sandbox.image)
            with suppress(NoRangeError):  # no root file systems can be made here
                await to_its_end(give_to_root_inside, sandbox.image)
            sandbox.image.rename(directory)
            return build.config
        finally:
            await asyncio.shield(asyncio.to_thread(remove_tree, scratch))

    async def _begin(self, sandbox: BuildSandbox, plan: Plan, parent: Path | None) -> None:
        sandbox.image.mkdir()
        for name in _WRITERS:
            source = parent / name if parent is not None else None
            if source is None or not source.is_dir():
                layouts.below(sandbox.image / name, layouts.ENVIRONMENTS.get(name, "/")).mkdir(parents=True)
            else:
                await _duplicate(source, sandbox.image / name, copy=_changes(plan, name))

    def fill(self, context: Path, mount_id: str, files: Mapping[str, bytes]) -> None:
        """Lay out a build context in a new directory. Raises RefusedError, OSError."""
        context.mkdir()
        if mount_id:
            self._lay_out([mount_id], context)
        for name, data in files.items():
            if ".." in Path(name).parts:
                raise RefusedError(f"The build context's file '{name[:200]}' has '..' in its name: rename it.")
            path = context / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


class _Build:
    """Runs the steps of one layer in their order."""

    def __init__(
        self, sandbox: BuildSandbox, config: ImageConfig, context: Path, log: Log, *, checked: set[str]
    ) -> None:
        self.config = config
        self._sandbox = sandbox
        self._context = context
        self._log = log
        self._checked = checked

    async def run(self, step: object) -> None:
        match step:
            case Copy():
                copied = await to_its_end(copy_into, self._context, self._sandbox.image / layouts.TREE, step)
                self._log(f"COPY: {copied} files to {step.destination}\n", 1)
            case MakePython():
                await self._make_python()
            case Adopt():
                await self._with_environment()
                names = [package.partition("==")[0] for package in step.packages]
                await to_its_end(adopt, names, layouts.below(self._sandbox.image / "venv", layouts.VENV))
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
                assert node is not None  # checked when the layer was read
                await self._sandbox.run(
                    [node[0], node[1], *argv[1:], *self._expanded(step.arguments)], env=_node_path(node[0])
                )
                if not node[0].startswith("/usr/"):
                    await self._copy_node(node[0])

    async def _with_environment(self) -> None:
        """Make the Python environment that packages are installed into, unless the image has one."""
        if not self.config.interpreter:
            await self._make_environment(self.config.python)

    async def _make_environment(self, version: str) -> None:
        own = version == host.OWN_PYTHON
        problem = ""
        for interpreter in host.interpreters(version):
            try:
                await self._copy_python(interpreter)
                await self._venv(interpreter.path)
                if own:
                    await self._offer_the_cloud(interpreter.path)
                    if interpreter.path not in self._checked:
                        await self._check()
                    self._checked.add(interpreter.path)
            except BuildFailedError as error:
                problem = str(error)
                self._log(f"{interpreter.path} cannot be used: {problem}\n", 2)
                await to_its_end(remove_tree, self._sandbox.image / layouts.COPIED_PYTHON)
                continue
            self.config = replace(
                self.config, interpreter=interpreter.path, interpreter_prefix=interpreter.prefix, python=version
            )
            await to_its_end(environments.add_programs, self._sandbox.image / "venv")
            return
        raise BuildFailedError(
            f"No environment can be made with Python {version}: "
            f"{problem or f'no such interpreter is installed. Run `uv python install {version}`.'}"
        )

    async def _copy_python(self, interpreter: host.Interpreter) -> None:
        """Copy an interpreter into the image if it is outside of /usr."""
        self._sandbox.python_prefix = interpreter.prefix
        if interpreter.prefix:
            destination = layouts.below(self._sandbox.image / layouts.COPIED_PYTHON, interpreter.prefix)
            await to_its_end(copy_python, Path(interpreter.path), Path(interpreter.prefix), destination)

    async def _venv(self, python: str) -> None:
        if host.uv() is not None:
            argv = ["uv", "venv", "--quiet", "--allow-existing", "--no-project", "--python", python, layouts.VENV]
        else:
            argv = [python, "-m", "venv", "--clear", layouts.VENV]
        await self._sandbox.run(argv)

    async def _offer_the_cloud(self, python: str) -> None:
        """Add the cloud's packages to sys.path behind the image's own: a container's entrypoint needs them."""
        words = [layouts.VENV, environments.OFFER, environments.packages_of_cloud()]
        await self._sandbox.run([python, "-I", "-S", "-c", _OFFER_THE_CLOUD, *words])

    async def _check(self) -> None:
        argv = [layouts.PYTHON, "-c", "import ssl, sqlite3, modal._container_entrypoint"]
        await self._sandbox.run(argv, with_cloud=self.config.python == host.OWN_PYTHON)

    async def _make_python(self) -> None:
        version = self.config.python
        await self._make_environment(version)
        if version == host.OWN_PYTHON:
            return
        self._log(f"Python {version} is not the local cloud's own: installing the SDK for it\n", 1)
        await self._install([f"modal=={metadata.version('modal')}"])
        await self._check()

    async def _install(self, arguments: list[str]) -> None:
        if host.uv() is not None:
            words = ["install", "--python", layouts.PYTHON, *arguments]
            argv = ["/bin/sh", "-c", f'{FOR_UV}exec uv pip "$@"', "pip", *words]
        else:
            argv = [layouts.PYTHON, "-m", "pip", "install", *arguments]
        await self._sandbox.run(argv, what="pip install")

    async def _sync(self, arguments: list[str]) -> None:
        if host.uv() is None:
            raise RefusedError("uv is not installed on this machine. Run `pip install uv`.")
        project = self._sandbox.image / layouts.TREE / ".uv"
        if not (project / "pyproject.toml").is_file():
            raise RefusedError("uv sync works as Image.uv_sync writes it, with the project copied to /.uv: use that.")
        copy = self._sandbox.image.parent / "project"
        await to_its_end(shutil.copytree, project, copy)
        await self._sandbox.run(
            ["uv", "sync", "--inexact", "--python", layouts.PYTHON, *arguments],
            env={"UV_PROJECT_ENVIRONMENT": layouts.VENV},
            writable=[(copy, "/.uv")],  # it writes a lock file where there is none
        )

    async def _copy_node(self, node: str) -> None:
        """Copy the Node program into the image: of this machine's programs, sandboxes see only those below /usr."""
        bin_directory = f"{layouts.NPM_PREFIX}/bin"
        await self._sandbox.run(["/bin/sh", "-c", f'mkdir -p {bin_directory} && cp "$0" {bin_directory}/node', node])

    def _expanded(self, arguments: tuple[str, ...]) -> list[str]:
        """Replace absolute paths with wildcards by the image's files that match, as a shell would."""
        found: list[str] = []
        tree = self._sandbox.image / layouts.TREE
        for word in arguments:
            matches = []
            if word.startswith("/") and glob.has_magic(word) and ".." not in word:
                matches = [f"/{path.relative_to(tree)}" for path in sorted(tree.glob(word.lstrip("/")))]
            found += matches or [word]
        return found


def _open_directories(image: Path) -> None:
    """Make the directories that we have made readable for sandboxes' users, whatever the umask is."""
    image.chmod(0o755)
    for name in _WRITERS:
        (image / name).chmod(0o755)
    for ours in (layouts.TREE, layouts.COPIED_PYTHON):
        for directory, _, _ in os.walk(image / ours):
            Path(directory).chmod(0o755)
    for name, path in layouts.ENVIRONMENTS.items():
        for above in PurePosixPath(path).parents:
            layouts.below(image / name, str(above)).chmod(0o755)
    for path in layouts.LOCAL_PROGRAMS:
        for above in PurePosixPath(path).parents:
            with suppress(FileNotFoundError):
                layouts.below(image / "venv", str(above)).chmod(0o755)


def _changes(plan: Plan, part: str) -> bool:
    return any(isinstance(step, _WRITERS[part]) for step in plan.steps)


def _node_path(node: str) -> dict[str, str]:
    return {} if node.startswith("/usr/") else {"PATH": f"{Path(node).parent}:{layouts.SYSTEM_PATH}"}


async def _duplicate(source: Path, destination: Path, *, copy: bool) -> None:
    """Copy a tree if `copy`, sharing blocks where the file system can; else hard-link its files. Links stay links.

    A copy belongs to us, who write to it; what has been built belongs to root inside.

    Raises BuildFailedError, and TimeoutError after ten minutes.
    """
    how = ["cp", "-a", "--no-preserve=ownership", "--reflink=auto"] if copy else ["cp", "-al"]
    program = await Program.start(*how, "--", str(source), str(destination), stdout=asyncio.subprocess.DEVNULL)
    async with aclosing(program), asyncio.timeout(_COPY_S):
        complaint = await program.stderr.read()
        code = await program.wait()
    if code:
        raise BuildFailedError(
            f"The files of the image below cannot be copied: {complaint.decode(errors='replace')[:300]}"
        )
