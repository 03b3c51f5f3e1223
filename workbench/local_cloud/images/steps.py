"""Reads one layer: what it changes in the image's config, and which steps build its files.

No RUN line is given to a shell: only commands that are known here are carried out. Everything else raises
`RefusedError` with the layer's text when an app is deployed, so that nothing is missing in a running container.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath

from modal_proto import api_pb2

from workbench.local_cloud.base import host
from workbench.local_cloud.images import adopted, dockerfile, layouts
from workbench.local_cloud.images.dockerfile import Instruction, NeedsRootError, RefusedError
from workbench.local_cloud.images.installs import NpmInstall, PipInstall, UvSync, npm_arguments, pip_arguments
from workbench.local_cloud.images.plans import Adopt, Copy, ImageConfig, MakePython, Plan
from workbench.local_cloud.images.reading import (
    PYTHON_IMAGE,
    UV_IMAGE,
    ConfigReader,
    arguments,
    base_name,
    carry_out,
    check,
)
from workbench.local_cloud.images.run_mounts import CACHE, TMPFS, asked, read

MAX_DIRECTORIES = 100  # a sandbox mounts a file system for each
_ARCHIVE = re.compile(r"\.(tar|tar\.\w+|tgz|tbz2?|txz)$")
_DEBCONF = re.compile(r"^echo\s+'[^']*'\s*\|\s*debconf-set-selections$")
_APT_NOTHING = frozenset(("update", "clean", "autoclean", "autoremove", "upgrade", "dist-upgrade"))
_SDK_UV = "/.uv/uv"
_NO_EFFECT = frozenset(("true", ":", "echo"))
# fmt: off
_LEFT_BY_INSTALLERS = (
    "/root/.cache", "/root/.npm", "/tmp/", "/usr/share/doc", "/usr/share/locale", "/usr/share/man", "/var/cache",  # noqa: S108  # inside the guest
    "/var/lib/apt/lists", "/var/log", "/var/tmp/",  # noqa: S108  # inside the guest
)
# fmt: on
_BUILD_COMMANDS = "pip install, uv pip install, uv sync, npm install -g, apt-get install and mkdir"


def interpret(
    image: api_pb2.Image, parents: Mapping[str, ImageConfig], *, secrets: Mapping[str, str], files: Path | None = None
) -> Plan:
    """Read a layer and return how to build it.

    `parents` are the configs of the images that its FROM may name, `secrets` the build's environment variables, and
    `files` the parent's directory of files by their absolute paths (None: it has none). Raises RefusedError.
    """
    check(image)
    if image.HasField("build_function"):
        raise NeedsRootError("run_function needs a root file system of its own.")
    reader = _Reader(image, parents, secrets=secrets, files=files)
    for instruction in dockerfile.instructions(image.dockerfile_commands):
        reader.plan.log.append(str(instruction))
        carry_out(instruction, reader.read)
    if not reader.started:
        raise RefusedError("The layer has no FROM: begin it with one.")
    reader.plan.config = reader.config
    return reader.plan


class _Reader(ConfigReader):
    """Reads the instructions of one layer in their order."""

    def __init__(
        self,
        image: api_pb2.Image,
        parents: Mapping[str, ImageConfig],
        *,
        secrets: Mapping[str, str],
        files: Path | None,
    ) -> None:
        super().__init__(ImageConfig(), build_args=image.build_args, path=layouts.IMAGE_PATH)
        self.plan = Plan(self.config)
        self.started = False
        self._parents = parents
        self._secrets = secrets
        self._files = files
        self._context = {file.filename.lstrip("/"): file.data for file in image.context_files}
        self._texts: dict[str, str] = {}  # the texts of context files that were copied, by their paths in the image

    def read(self, instruction: Instruction) -> None:
        """Carry out one instruction. Raises RefusedError."""
        if instruction.documents:
            raise NeedsRootError("Here-documents need a shell, which the local cloud does not run here.")
        if not self.started:
            self._begin(instruction)
        elif not self.read_config(instruction):
            self._make(instruction)

    def _begin(self, instruction: Instruction) -> None:
        match instruction.keyword:
            case "FROM":
                self.started = True
                self._from(base_name(instruction, self._common)[0])
            case "ARG":
                self._common |= arguments(instruction, self._common, self._build_args, {})
            case keyword:
                raise RefusedError(f"A layer must begin with FROM, not {keyword[:50]}.")

    def _make(self, instruction: Instruction) -> None:
        match instruction.keyword:
            case "FROM" | "ONBUILD":
                raise NeedsRootError(f"{instruction.keyword} needs a root file system of its own.")
            case "WORKDIR":
                path = str(self._target(self.word(instruction), what="A working directory"))
                self.change(workdir=path)
                self._directory(path)
            case "VOLUME":
                for word in self.words(instruction.text, instruction):
                    self._directory(str(self._target(word, what="A volume")))
            case "COPY" | "ADD":
                self._copy(instruction)
            case "RUN":
                self._run(self._command_of(instruction))
            case "USER":
                if self.word(instruction) not in ("root", "0", "root:root", "0:0"):
                    raise NeedsRootError("USER needs a root file system of its own.")
            case keyword:
                raise RefusedError(f"{keyword[:50]} is not a known instruction: correct it, or leave it out.")

    def _target(self, word: str, what: str = "A file") -> PurePosixPath:
        return layouts.target(word, workdir=self.config.workdir or "/", what=what)

    def _from(self, name: str) -> None:
        if name in self._parents:
            self.config = self._parents[name]
            return
        if host.is_own_system(name):
            return
        known = PYTHON_IMAGE.match(name)
        if known is None:
            raise NeedsRootError(f"The base image '{name[:200]}' has a root file system of its own.")
        version = known.group(1)
        self.change(python=version)
        if version == host.OWN_PYTHON and host.is_system_python(version):
            return  # sandboxes see that Python below /usr, and function containers have the cloud's own
        if not host.interpreters(version):
            raise NeedsRootError(f"Python {version} is not installed on this machine.")
        self.plan.steps.append(MakePython(version))

    def _directory(self, path: str) -> None:
        if path not in ("/", "/root", "/tmp") and path not in self.config.directories:  # noqa: S108  # inside the guest
            # Sorted, so that an outer directory is made first: made later it would hide the inner one.
            self.change(directories=tuple(sorted((*self.config.directories, path))))
            if len(self.config.directories) > MAX_DIRECTORIES:
                raise NeedsRootError(
                    f"More than {MAX_DIRECTORIES} directories from WORKDIR and mkdir need a root of their own."
                )

    def _copy(self, instruction: Instruction) -> None:
        mode = None
        flags, rest = dockerfile.flags(instruction.text)
        for name, value in flags:
            match name:
                case "from" if UV_IMAGE.match(value) and rest.split() == ["/uv", _SDK_UV]:
                    return  # the SDK gets uv into the image in this way; here the machine's own uv is used
                case "chmod":
                    if not re.fullmatch(r"0?[0-7]{3}", value):
                        raise NeedsRootError(f"The mode '{value[:60]}' needs a root file system of its own.")
                    mode = int(value, 8)
                case "chown" | "link":
                    pass  # without an effect, since guests see the files read-only
                case _:
                    raise NeedsRootError(f"{instruction.keyword} --{name[:50]} needs a root file system of its own.")
        paths = self.words(rest, instruction)
        if len(paths) < 2:
            raise RefusedError(f"{instruction.keyword} needs one source or more, and a destination.")
        *sources, last = paths
        for source in sources:
            if re.match(r"\w+://|git@", source):
                raise NeedsRootError("Files from the network need a root file system of their own.")
            if ".." in PurePosixPath(source).parts:
                raise RefusedError(f"'{source[:200]}' has '..' in it: a source must be in the build context.")
            if instruction.keyword == "ADD" and _ARCHIVE.search(source):
                raise NeedsRootError("Archives are not unpacked by the local cloud: use COPY, or copy what is in it.")
        into = last.endswith("/") or last in (".", "./") or len(sources) > 1
        destination = self._target(last)
        self.plan.steps.append(Copy(tuple(sources), destination, into, mode))
        if len(sources) == 1 and not into and (data := self._context.get(sources[0].lstrip("/"))) is not None:
            self._texts[str(destination)] = data.decode(errors="replace")

    def _command_of(self, instruction: Instruction) -> str:
        """Return a RUN's command; installers have their own caches, so that mounts of such need nothing here."""
        found = asked(instruction)
        if not found.network:
            raise NeedsRootError("RUN --network=none needs a root file system of its own.")
        expand = partial(dockerfile.expand, variables=self.variables, escape=instruction.escape)
        for mount in read(found.mounts, expand=expand, workdir=self.config.workdir or "/", secrets=self._secrets):
            if mount.kind not in (CACHE, TMPFS):
                raise NeedsRootError(f"RUN --mount=type={mount.kind} needs a root file system of its own.")
        return found.command

    def _run(self, text: str) -> None:
        if _DEBCONF.match(text):
            return  # it sets the answers to questions of Debian's installer, which does not run here
        for command in dockerfile.commands(text, {**self.variables, **self._secrets}):
            self._command(command)

    def _command(self, command: list[str]) -> None:
        if re.match(r"[A-Za-z_]\w*=", command[0]):
            raise NeedsRootError("A variable's assignment needs a shell, which the local cloud does not run here.")
        name = command[0].rpartition("/")[2]
        if name in _NO_EFFECT:
            return
        if name == "rm":
            self._rm([word for word in command[1:] if not word.startswith("-")])
        elif name == "mkdir":
            for word in command[1:]:
                if not word.startswith("-"):
                    self._directory(str(self._target(word)))
                elif not re.fullmatch(r"-[pv]+", word):
                    raise NeedsRootError(f"mkdir {word[:50]} needs a root file system of its own.")
        elif name in ("apt-get", "apt"):
            self._apt(command[1:])
        elif name == "npm":
            self._npm(command[1:])
        elif (pip := pip_arguments(command)) is not None:
            self._pip(pip)
        elif name == "uv" and command[1:2] == ["sync"]:
            self.plan.steps.append(UvSync(tuple(command[2:])))
            self.change(installed=True)
        else:
            raise NeedsRootError(
                f"'{' '.join(command)[:100]}' cannot be run in an image build of the local cloud, which has only "
                f"{_BUILD_COMMANDS}."
            )

    def _rm(self, words: list[str]) -> None:
        """Accept rm of what installers leave behind, which is not there anyway; raise RefusedError for other files."""
        for word in words:
            path = str(PurePosixPath("/") / (self.config.workdir or "/") / re.sub(r"^~(?=/|$)", "/root", word))
            copied = [str(step.destination) for step in self.plan.steps if isinstance(step, Copy)]
            stays = any(_meets(path, destination) for destination in copied) or self._has_file(path)
            if stays or not path.startswith(_LEFT_BY_INSTALLERS):
                raise NeedsRootError(
                    f"rm of '{word[:100]}' is not implemented by the local cloud: do not copy it in the first place."
                )

    def _has_file(self, pattern: str) -> bool:
        if self._files is None:
            return False
        try:
            return next(self._files.glob(pattern.lstrip("/")), None) is not None
        except ValueError:  # not a pattern that glob accepts
            return True

    def _pip(self, arguments: list[str]) -> None:
        wanted = self._requirements(arguments)
        met = adopted.satisfied(wanted) if wanted is not None else None
        if met == []:
            return
        if met and self.config.python == host.OWN_PYTHON and not self.config.installed:
            self.plan.steps.append(Adopt(tuple(met)))
            return
        if not host.can_install():
            raise RefusedError("This machine has neither uv nor pip to install packages with. Run `pip install uv`.")
        self.plan.steps.append(PipInstall(tuple(arguments)))
        self.change(installed=True)

    def _requirements(self, arguments: list[str]) -> list[str] | None:
        """Return the requirements in pip's arguments; None when only an installer can say what would be installed."""
        wanted: list[str] = []
        rest = iter(arguments)
        for word in rest:
            if word in ("-r", "--requirement", "--requirements"):
                lines = host.requirement_lines(self._texts.get(next(rest, ""), "-"))
                if lines is None:
                    return None
                wanted += lines
            elif word in ("-c", "--constraint", "-e", "--editable", "--force-reinstall", "--reinstall"):
                return None
            elif word in ("--find-links", "-f", "--index-url", "-i", "--extra-index-url", "--prerelease"):
                next(rest, None)
            elif not word.startswith("-"):
                wanted.append(word)
        return wanted

    def _apt(self, arguments: list[str]) -> None:
        verbs = [word for word in arguments if not word.startswith("-")]
        if not verbs or verbs[0] in _APT_NOTHING:
            return
        if verbs[0] != "install":
            raise NeedsRootError(
                f"'apt-get {verbs[0][:50]}' is not implemented by the local cloud: use apt-get install."
            )
        if missing := host.missing_system_packages(verbs[1:]):
            raise NeedsRootError(
                f"Not installed on this machine, whose system packages the image uses: {', '.join(missing)}. "
                f"Run `sudo apt-get install -y {' '.join(missing)}`."
            )
        names = {word.partition("=")[0] for word in verbs[1:]} - host.COMPILERS
        self.change(packages=tuple(sorted({*self.config.packages, *names})))

    def _npm(self, arguments: list[str]) -> None:
        wanted = npm_arguments(arguments)
        if wanted is None:
            return
        if host.npm() is None:
            raise RefusedError("npm is not installed on this machine. Run `sudo apt-get install -y nodejs npm`.")
        self.plan.steps.append(NpmInstall(tuple(wanted)))


def _meets(pattern: str, path: str) -> bool:
    """Whether a pattern matches a path, a directory above it, or anything below it."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern.rstrip('/')}/*") or pattern.startswith(f"{path}/")
