"""Reads one layer: what it changes in the image's meaning, and which steps must build something for it.

Only forms that are known are read; no line of a RUN is ever given to a shell. Whatever else an image asks for raises
`RefusedError` with the layer's text, at deploy time, so that nothing is missing in a running container.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from modal_proto import api_pb2

from workbench.local_cloud.images import adopted, dockerfile, host, layouts
from workbench.local_cloud.images.dockerfile import Instruction, RefusedError
from workbench.local_cloud.images.installs import NpmInstall, PipInstall, UvSync, npm_arguments, pip_arguments
from workbench.local_cloud.images.plans import Adopt, Copy, MakePython, Meaning, Plan

MAX_ENV_CHARS = 128 * 1024
MAX_DIRECTORIES = 100  # each is a file system of its own in a sandbox
_PYTHON_IMAGE = re.compile(
    r"^(?:docker\.io/)?(?:library/)?python:(3\.\d{1,2})(?:\.\d+)?(?:-(?:slim|bookworm|bullseye|trixie))*$"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ARCHIVE = re.compile(r"\.(tar|tar\.\w+|tgz|tbz2?|txz)$")
_UV_IMAGE = "--from=ghcr.io/astral-sh/uv:"
_DEBCONF = re.compile(r"^echo\s+'[^']*'\s*\|\s*debconf-set-selections$")
_APT_NOTHING = frozenset(("update", "clean", "autoclean", "autoremove", "upgrade", "dist-upgrade"))
_NO_EFFECT = frozenset(("true", ":", "echo"))
# fmt: off
_LEFT_BY_INSTALLERS = (
    "/root/.cache", "/root/.npm", "/tmp/", "/usr/share/doc", "/usr/share/locale", "/usr/share/man", "/var/cache",  # noqa: S108  # inside the guest
    "/var/lib/apt/lists", "/var/log", "/var/tmp/",  # noqa: S108  # inside the guest
)
# fmt: on
_BUILD_COMMANDS = "pip install, uv pip install, uv sync, npm install -g, apt-get install and mkdir"


def interpret(
    image: api_pb2.Image, parents: Mapping[str, Meaning], *, secrets: Mapping[str, str], files: Path | None = None
) -> Plan:
    """Read a layer on top of those it is built on, by their names. Raises RefusedError.

    `secrets` are the build's; below `files` the parent has its files by their absolute paths.
    """
    if image.HasField("build_function") or image.build_function_def:
        raise RefusedError("run_function is not implemented by the local cloud: do its work when a container starts.")
    if image.gpu_config.gpu_type or image.gpu_config.type:
        raise RefusedError("GPUs are not available on the local cloud: images are built without.")
    if image.volume_mounts:
        raise RefusedError("Volumes are not mounted while images are built by the local cloud.")
    reader = _Reader(image, parents, secrets=secrets, files=files)
    for instruction in dockerfile.instructions(image.dockerfile_commands):
        reader.plan.log.append(str(instruction))
        try:
            reader.read(instruction)
        except RefusedError as refusal:
            raise RefusedError(f"{refusal} The layer was: {str(instruction)[:500]}") from None
    if not reader.started:
        raise RefusedError("The layer has no FROM.")
    return reader.plan


class _Reader:
    """Reads the instructions of one layer in their order."""

    def __init__(
        self, image: api_pb2.Image, parents: Mapping[str, Meaning], *, secrets: Mapping[str, str], files: Path | None
    ) -> None:
        self.plan = Plan(Meaning())
        self.started = False
        self._parents = parents
        self._secrets = secrets
        self._files = files
        self._build_args = dict(image.build_args)
        self._arguments: dict[str, str] = {}
        self._context = {file.filename.lstrip("/"): file.data for file in image.context_files}
        self._texts: dict[str, str] = {}  # what small files of the context are in the image, by their path there

    def read(self, instruction: Instruction) -> None:
        text = instruction.text
        if not self.started and instruction.keyword not in ("FROM", "ARG"):
            raise RefusedError("A layer begins with FROM.")
        match instruction.keyword:
            case "FROM":
                self._from(text)
            case "ENV":
                self._env(text)
            case "ARG":
                self._arg(text)
            case "WORKDIR":
                self._workdir(text)
            case "ENTRYPOINT" | "CMD":
                self._program(instruction)
            case "COPY" | "ADD":
                self._copy(instruction)
            case "RUN":
                self._run(text)
            case "USER":
                raise RefusedError(
                    "USER is not implemented by the local cloud: programs run as a user of their project."
                )
            case "LABEL" | "EXPOSE" | "SHELL" | "MAINTAINER" | "STOPSIGNAL":
                pass  # nothing here depends on them: no shell is run, and no port is published
            case _:
                raise RefusedError(f"{instruction.keyword} is not interpreted by the local cloud.")

    @property
    def _variables(self) -> dict[str, str]:
        return {"PATH": layouts.IMAGE_PATH, **self._arguments, **self.plan.meaning.env}

    def _change(self, **changes: object) -> None:
        self.plan.meaning = replace(self.plan.meaning, **changes)  # type: ignore[arg-type]  # fields by their names

    def _from(self, text: str) -> None:
        if self.started:
            raise RefusedError("Builds of several stages are not implemented by the local cloud.")
        self.started = True
        name = dockerfile.expand(text, self._arguments).split()[0] if text else ""
        if name in self._parents:
            self.plan.meaning = self._parents[name]
            return
        if host.is_own_system(name):
            return
        known = _PYTHON_IMAGE.match(name)
        if known is None:
            raise RefusedError(f"The base image '{name}' cannot be had here: use debian_slim, or python:3.X.")
        version = known.group(1)
        self._change(python=version)
        if version == host.OWN_PYTHON and host.is_system_python(version):
            return  # sandboxes see it anyway, function containers have the cloud's own
        if not host.interpreters(version):
            there = ", ".join(host.python_versions())
            raise RefusedError(
                f"Python {version} is not installed here, there is {there}: run `uv python install {version}`, "
                f'or ask for debian_slim(python_version="{host.OWN_PYTHON}").'
            )
        self.plan.steps.append(MakePython(version))

    def _env(self, text: str) -> None:
        env = dict(self.plan.meaning.env)
        for name, value in dockerfile.pairs(text, self._variables):
            if not _NAME.fullmatch(name) or "\0" in value:
                raise RefusedError(f"'{name[:100]}' is no name of an environment variable.")
            env[name] = value
        if sum(len(name) + len(value) for name, value in env.items()) > MAX_ENV_CHARS:
            raise RefusedError(f"An image's environment has at most {MAX_ENV_CHARS} characters.")
        self._change(env=env)

    def _arg(self, text: str) -> None:
        name, _, default = text.partition("=")
        if not _NAME.fullmatch(name.strip()):
            raise RefusedError(f"'{name[:100]}' is no name of a build argument.")
        value = dict(dockerfile.pairs(text, self._variables)).get(name, "") if default else ""
        self._arguments[name.strip()] = self._build_args.get(name.strip(), value)

    def _workdir(self, text: str) -> None:
        (word, *more) = dockerfile.words(text, self._variables) or [""]
        if more:
            raise RefusedError("A working directory with blanks in it must be quoted.")
        path = str(layouts.target(word, workdir=self.plan.meaning.workdir or "/", what="A working directory"))
        self._change(workdir=path)
        self._directory(path)

    def _directory(self, path: str) -> None:
        if path not in ("/", "/root", "/tmp") and path not in self.plan.meaning.directories:  # noqa: S108  # inside the guest
            # The outer before the inner, which it would hide.
            self._change(directories=tuple(sorted((*self.plan.meaning.directories, path))))
            if len(self.plan.meaning.directories) > MAX_DIRECTORIES:
                raise RefusedError(f"An image makes at most {MAX_DIRECTORIES} directories.")

    def _program(self, instruction: Instruction) -> None:
        listed = dockerfile.argument_list(instruction.text)
        if listed is None:
            listed = ["/bin/sh", "-c", instruction.text]
        if instruction.keyword == "ENTRYPOINT":
            self._change(entrypoint=tuple(listed), cmd=())  # Docker's rule: it resets the CMD of the base
        else:
            self._change(cmd=tuple(listed))

    def _copy(self, instruction: Instruction) -> None:
        if instruction.text.startswith(_UV_IMAGE):
            return  # the SDK brings uv into the image this way; the machine's own is used
        mode = None
        paths: list[str] = []
        for word in dockerfile.words(instruction.text, self._variables):
            if word.startswith("--chmod="):
                if not re.fullmatch(r"0?[0-7]{3}", word[8:]):
                    raise RefusedError("A mode must be three octal digits.")
                mode = int(word[8:], 8)
            elif word.startswith(("--chown=", "--link")):
                continue  # files belong to nobody in particular here: they are read-only
            elif word.startswith("--"):
                raise RefusedError(f"{word.partition('=')[0]} is not interpreted by the local cloud.")
            else:
                paths.append(word)
        if len(paths) < 2:
            raise RefusedError("Sources and a destination are wanted.")
        *sources, last = paths
        for source in sources:
            if re.match(r"\w+://|git@", source):
                raise RefusedError("Files from the network are not implemented by the local cloud: copy a local one.")
            if ".." in PurePosixPath(source).parts:
                raise RefusedError(f"'{source}' leads out of the build context.")
            if instruction.keyword == "ADD" and _ARCHIVE.search(source):
                raise RefusedError("Archives are not unpacked by the local cloud: use COPY, or copy what is in it.")
        into = last.endswith("/") or last in (".", "./") or len(sources) > 1
        destination = layouts.target(last, workdir=self.plan.meaning.workdir or "/")
        self.plan.steps.append(Copy(tuple(sources), destination, into, mode))
        if len(sources) == 1 and not into and (data := self._context.get(sources[0].lstrip("/"))) is not None:
            self._texts[str(destination)] = data.decode(errors="replace")

    def _run(self, text: str) -> None:
        if _DEBCONF.match(text):
            return  # how Debian's installer asks is of no interest: nothing is installed that asks
        for command in dockerfile.commands(text, {**self._variables, **self._secrets}):
            self._command(command)

    def _command(self, command: list[str]) -> None:
        while command and re.match(r"[A-Za-z_]\w*=", command[0]):
            command = command[1:]  # variables of one command: none of those that are read here matters to us
        name = command[0].rpartition("/")[2] if command else ":"
        if name in _NO_EFFECT:
            return
        if name == "rm":
            self._rm([word for word in command[1:] if not word.startswith("-")])
        elif name == "mkdir":
            for word in command[1:]:
                if not word.startswith("-"):
                    self._directory(str(layouts.target(word, workdir=self.plan.meaning.workdir or "/")))
        elif name in ("apt-get", "apt"):
            self._apt(command[1:])
        elif name == "npm":
            self._npm(command[1:])
        elif (pip := pip_arguments(command)) is not None:
            self._pip(pip)
        elif name == "uv" and command[1:2] == ["sync"]:
            self.plan.steps.append(UvSync(tuple(command[2:])))
            self._change(installed=True)
        else:
            raise RefusedError(
                f"'{' '.join(command)[:100]}' is not run by the local cloud, which reads {_BUILD_COMMANDS} only."
            )

    def _rm(self, words: list[str]) -> None:
        """Removing what installers leave has no effect, since nothing is left here; any other file would stay."""
        for word in words:
            path = str(PurePosixPath("/") / (self.plan.meaning.workdir or "/") / re.sub(r"^~(?=/|$)", "/root", word))
            copied = [str(step.destination) for step in self.plan.steps if isinstance(step, Copy)]
            stays = any(_meets(path, destination) for destination in copied) or self._has_file(path)
            if stays or not path.startswith(_LEFT_BY_INSTALLERS):
                raise RefusedError(f"rm of '{word[:100]}' is not done by the local cloud: do not copy it instead.")

    def _has_file(self, pattern: str) -> bool:
        if self._files is None:
            return False
        try:
            return next(self._files.glob(pattern.lstrip("/")), None) is not None
        except ValueError:  # no pattern that can be read
            return True

    def _pip(self, arguments: list[str]) -> None:
        wanted = self._requirements(arguments)
        met = adopted.satisfied(wanted) if wanted is not None else None
        if met == []:
            return
        if met and self.plan.meaning.python == host.OWN_PYTHON and not self.plan.meaning.installed:
            self.plan.steps.append(Adopt(tuple(met)))
            return
        if not host.can_install():
            raise RefusedError("Nothing on this machine installs Python packages. Run `pip install uv`.")
        self.plan.steps.append(PipInstall(tuple(arguments)))
        self._change(installed=True)

    def _requirements(self, arguments: list[str]) -> list[str] | None:
        """What is to be installed, if that is all that the arguments say; None when only the installer can tell."""
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
            raise RefusedError(f"apt-get {verbs[0]} is not interpreted by the local cloud.")
        if missing := host.missing_system_packages(verbs[1:]):
            raise RefusedError(
                f"not installed on this machine: {', '.join(missing)}. "
                f"Run `sudo apt-get install -y {' '.join(missing)}`."
            )

    def _npm(self, arguments: list[str]) -> None:
        wanted = npm_arguments(arguments)
        if wanted is None:
            return
        if host.npm() is None:
            raise RefusedError("npm is not installed on this machine. Run `sudo apt-get install -y nodejs npm`.")
        self.plan.steps.append(NpmInstall(tuple(wanted)))


def _meets(pattern: str, path: str) -> bool:
    """Whether a pattern names a path, or what is above or below it."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern.rstrip('/')}/*") or pattern.startswith(f"{path}/")
