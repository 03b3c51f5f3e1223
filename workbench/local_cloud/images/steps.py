"""Reads one layer: what it changes in the image's config, and which steps build its files.

No RUN line is given to a shell: only commands that are known here are carried out. Everything else raises
`RefusedError` with the layer's text when an app is deployed, so that nothing is missing in a running container.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from modal_proto import api_pb2

from workbench.local_cloud.images import adopted, dockerfile, host, layouts
from workbench.local_cloud.images.dockerfile import Instruction, NeedsRootError, RefusedError
from workbench.local_cloud.images.installs import NpmInstall, PipInstall, UvSync, npm_arguments, pip_arguments
from workbench.local_cloud.images.plans import Adopt, Copy, ImageConfig, MakePython, Plan

MAX_ENV_CHARS = 128 * 1024
MAX_DIRECTORIES = 100  # a sandbox mounts a file system for each
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
    image: api_pb2.Image, parents: Mapping[str, ImageConfig], *, secrets: Mapping[str, str], files: Path | None = None
) -> Plan:
    """Read a layer and return how to build it.

    `parents` are the configs of the images that its FROM may name, `secrets` the build's environment variables, and
    `files` the parent's directory of files by their absolute paths (None: it has none). Raises RefusedError.
    """
    if image.HasField("build_function") or image.build_function_def:
        raise RefusedError("run_function is not implemented by the local cloud: do its work when a container starts.")
    if image.gpu_config.gpu_type or image.gpu_config.type:
        raise RefusedError("GPUs are not available on the local cloud: build the image without one.")
    if image.volume_mounts:
        raise RefusedError("The local cloud mounts no volumes into image builds: copy the files instead.")
    reader = _Reader(image, parents, secrets=secrets, files=files)
    for instruction in dockerfile.instructions(image.dockerfile_commands):
        reader.plan.log.append(str(instruction))
        try:
            reader.read(instruction)
        except RefusedError as refusal:
            raise type(refusal)(f"{refusal} The layer was: {str(instruction)[:500]}") from None
    if not reader.started:
        raise RefusedError("The layer has no FROM: begin it with one.")
    return reader.plan


class _Reader:
    """Reads the instructions of one layer in their order."""

    def __init__(
        self,
        image: api_pb2.Image,
        parents: Mapping[str, ImageConfig],
        *,
        secrets: Mapping[str, str],
        files: Path | None,
    ) -> None:
        self.plan = Plan(ImageConfig())
        self.started = False
        self._parents = parents
        self._secrets = secrets
        self._files = files
        self._build_args = dict(image.build_args)
        self._arguments: dict[str, str] = {}
        self._context = {file.filename.lstrip("/"): file.data for file in image.context_files}
        self._texts: dict[str, str] = {}  # the texts of context files that were copied, by their paths in the image

    def read(self, instruction: Instruction) -> None:
        text = instruction.text
        if not self.started and instruction.keyword not in ("FROM", "ARG"):
            raise RefusedError(f"A layer must begin with FROM, not {instruction.keyword[:50]}.")
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
                raise NeedsRootError(
                    "USER is not implemented by the local cloud, which chooses the user of each program: leave it out."
                )
            case "LABEL" | "EXPOSE" | "SHELL" | "MAINTAINER" | "STOPSIGNAL":
                pass  # nothing here depends on them: no shell is run, and no port is published
            case _:
                raise RefusedError(f"{instruction.keyword[:50]} is not implemented by the local cloud: leave it out.")

    @property
    def _variables(self) -> dict[str, str]:
        return {"PATH": layouts.IMAGE_PATH, **self._arguments, **self.plan.config.env}

    def _change(self, **changes: object) -> None:
        self.plan.config = replace(self.plan.config, **changes)  # type: ignore[arg-type]  # fields by their names

    def _from(self, text: str) -> None:
        if self.started:
            raise RefusedError("A second FROM (a build stage) is not implemented by the local cloud: use one FROM.")
        self.started = True
        name = dockerfile.expand(text, self._arguments).split()[0] if text else ""
        if name in self._parents:
            self.plan.config = self._parents[name]
            return
        if host.is_own_system(name):
            return
        known = _PYTHON_IMAGE.match(name)
        if known is None:
            raise NeedsRootError(
                f"The base image '{name[:200]}' is not available on the local cloud, which has no registry: use "
                "debian_slim, or python:3.X."
            )
        version = known.group(1)
        self._change(python=version)
        if version == host.OWN_PYTHON and host.is_system_python(version):
            return  # sandboxes see that Python below /usr, and function containers have the cloud's own
        if not host.interpreters(version):
            installed = ", ".join(host.python_versions())
            raise RefusedError(
                f"Python {version} is not installed on this machine, which has {installed}: run "
                f'`uv python install {version}`, or use debian_slim(python_version="{host.OWN_PYTHON}").'
            )
        self.plan.steps.append(MakePython(version))

    def _env(self, text: str) -> None:
        env = dict(self.plan.config.env)
        for name, value in dockerfile.pairs(text, self._variables):
            if not _NAME.fullmatch(name) or "\0" in value:
                raise RefusedError(
                    f"ENV '{name[:100]}': a name has letters, digits and underscores only, a value has no NUL."
                )
            env[name] = value
        if sum(len(name) + len(value) for name, value in env.items()) > MAX_ENV_CHARS:
            raise RefusedError(f"An image's environment has at most {MAX_ENV_CHARS} characters, and this is longer.")
        self._change(env=env)

    def _arg(self, text: str) -> None:
        name, _, default = text.partition("=")
        if not _NAME.fullmatch(name.strip()):
            raise RefusedError(f"ARG '{name[:100]}': a name must be letters, digits and underscores.")
        value = dict(dockerfile.pairs(text, self._variables)).get(name, "") if default else ""
        self._arguments[name.strip()] = self._build_args.get(name.strip(), value)

    def _workdir(self, text: str) -> None:
        (word, *more) = dockerfile.words(text, self._variables) or [""]
        if more:
            raise RefusedError(f"WORKDIR must be one path, not '{text[:200]}': put quotes around a path with blanks.")
        path = str(layouts.target(word, workdir=self.plan.config.workdir or "/", what="A working directory"))
        self._change(workdir=path)
        self._directory(path)

    def _directory(self, path: str) -> None:
        if path not in ("/", "/root", "/tmp") and path not in self.plan.config.directories:  # noqa: S108  # inside the guest
            # Sorted, so that an outer directory is made first: made later it would hide the inner one.
            self._change(directories=tuple(sorted((*self.plan.config.directories, path))))
            if len(self.plan.config.directories) > MAX_DIRECTORIES:
                raise RefusedError(f"An image has at most {MAX_DIRECTORIES} directories from WORKDIR and mkdir.")

    def _program(self, instruction: Instruction) -> None:
        listed = dockerfile.argument_list(instruction.text)
        if listed is None:
            listed = ["/bin/sh", "-c", instruction.text]
        if instruction.keyword == "ENTRYPOINT":
            self._change(entrypoint=tuple(listed), cmd=())  # as Docker does, which drops the base's CMD
        else:
            self._change(cmd=tuple(listed))

    def _copy(self, instruction: Instruction) -> None:
        if instruction.text.startswith(_UV_IMAGE):
            return  # the SDK gets uv into the image in this way; here the machine's own uv is used
        mode = None
        paths: list[str] = []
        for word in dockerfile.words(instruction.text, self._variables):
            if word.startswith("--chmod="):
                if not re.fullmatch(r"0?[0-7]{3}", word[8:]):
                    raise RefusedError(f"A mode must be three octal digits, as in --chmod=644, not '{word[8:60]}'.")
                mode = int(word[8:], 8)
            elif word.startswith(("--chown=", "--link")):
                continue  # without an effect, since guests see the files read-only
            elif word.startswith("--"):
                option = word.partition("=")[0][:50]
                raise NeedsRootError(f"{option} is not implemented by the local cloud: leave it out.")
            else:
                paths.append(word)
        if len(paths) < 2:
            raise RefusedError(f"{instruction.keyword} needs one source or more, and a destination.")
        *sources, last = paths
        for source in sources:
            if re.match(r"\w+://|git@", source):
                raise RefusedError("Files from the network are not implemented by the local cloud: copy a local one.")
            if ".." in PurePosixPath(source).parts:
                raise RefusedError(f"'{source[:200]}' has '..' in it: a source must be in the build context.")
            if instruction.keyword == "ADD" and _ARCHIVE.search(source):
                raise NeedsRootError("Archives are not unpacked by the local cloud: use COPY, or copy what is in it.")
        into = last.endswith("/") or last in (".", "./") or len(sources) > 1
        destination = layouts.target(last, workdir=self.plan.config.workdir or "/")
        self.plan.steps.append(Copy(tuple(sources), destination, into, mode))
        if len(sources) == 1 and not into and (data := self._context.get(sources[0].lstrip("/"))) is not None:
            self._texts[str(destination)] = data.decode(errors="replace")

    def _run(self, text: str) -> None:
        if _DEBCONF.match(text):
            return  # it sets the answers to questions of Debian's installer, which does not run here
        for command in dockerfile.commands(text, {**self._variables, **self._secrets}):
            self._command(command)

    def _command(self, command: list[str]) -> None:
        while command and re.match(r"[A-Za-z_]\w*=", command[0]):
            command = command[1:]  # variables for this command only: they have no effect on the commands known here
        name = command[0].rpartition("/")[2] if command else ":"
        if name in _NO_EFFECT:
            return
        if name == "rm":
            self._rm([word for word in command[1:] if not word.startswith("-")])
        elif name == "mkdir":
            for word in command[1:]:
                if not word.startswith("-"):
                    self._directory(str(layouts.target(word, workdir=self.plan.config.workdir or "/")))
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
            raise NeedsRootError(
                f"'{' '.join(command)[:100]}' cannot be run in an image build of the local cloud, which has only "
                f"{_BUILD_COMMANDS}."
            )

    def _rm(self, words: list[str]) -> None:
        """Accept rm of what installers leave behind, which is not there anyway; raise RefusedError for other files."""
        for word in words:
            path = str(PurePosixPath("/") / (self.plan.config.workdir or "/") / re.sub(r"^~(?=/|$)", "/root", word))
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
        if met and self.plan.config.python == host.OWN_PYTHON and not self.plan.config.installed:
            self.plan.steps.append(Adopt(tuple(met)))
            return
        if not host.can_install():
            raise RefusedError("This machine has neither uv nor pip to install packages with. Run `pip install uv`.")
        self.plan.steps.append(PipInstall(tuple(arguments)))
        self._change(installed=True)

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
        self._change(packages=tuple(sorted({*self.plan.config.packages, *names})))

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
