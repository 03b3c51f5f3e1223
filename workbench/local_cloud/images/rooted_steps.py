"""Reads one layer of an image that has a root file system of its own: its RUN lines are given to a real shell.

`steps` reads the images that share this machine's system. What it refuses, and every base that is not this machine's
system, is read here.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from modal_proto import api_pb2

from workbench.local_cloud.images import dockerfile, host, layouts
from workbench.local_cloud.images.dockerfile import Instruction, RefusedError
from workbench.local_cloud.images.plans import (
    CopyIn,
    ImageConfig,
    MachineBase,
    MakeDirectory,
    Plan,
    Pull,
    PutUv,
    Run,
    Scratch,
)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_ENV_CHARS = 128 * 1024
PYTHON_IMAGE = re.compile(
    r"^(?:docker\.io/)?(?:library/)?python:(3\.\d{1,2})(?:\.\d+)?(?:-(?:slim|bookworm|bullseye|trixie))*$"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(?::[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?", re.ASCII)
_FLAG = re.compile(r"^--(\w+)(?:=(\S+))?\s*")
_UV_IMAGE = re.compile(r"(?:ghcr\.io/astral-sh/uv|astral/uv)(?::|@|$)")
_MAX_PATH = 4000


def interpret(image: api_pb2.Image, parents: Mapping[str, ImageConfig], *, secrets: Mapping[str, str]) -> Plan:
    """Read a layer and return how to build it on a root file system of its own.

    `parents` are the configs of the images that its FROM may name, `secrets` the environment variables of its RUN
    steps. Raises RefusedError.
    """
    reader = _Reader(image, parents, secrets=secrets)
    for instruction in dockerfile.instructions(image.dockerfile_commands):
        reader.plan.log.append(str(instruction))
        try:
            reader.read(instruction)
        except RefusedError as refusal:
            raise RefusedError(f"{refusal} The layer was: {str(instruction)[:500]}") from None
    if not reader.started:
        raise RefusedError("The layer has no FROM: begin it with one.")
    return reader.plan


def own_path(config: ImageConfig) -> dict[str, str]:
    """Return a config's environment variables, with a PATH."""
    return {"PATH": PATH, **config.env}


class _Reader:
    """Reads the instructions of one layer in their order."""

    def __init__(self, image: api_pb2.Image, parents: Mapping[str, ImageConfig], *, secrets: Mapping[str, str]) -> None:
        self.plan = Plan(ImageConfig(), rooted=True)
        self.started = False
        self._parents = parents
        self._secrets = secrets
        self._build_args = dict(image.build_args)
        self._arguments: dict[str, str] = {}

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
            case "USER":
                self._user(text)
            case "SHELL":
                self._shell(text)
            case "ENTRYPOINT" | "CMD":
                self._program(instruction)
            case "COPY" | "ADD":
                self._copy(instruction)
            case "RUN":
                self._run(text)
            case "LABEL" | "EXPOSE" | "MAINTAINER" | "STOPSIGNAL" | "HEALTHCHECK" | "VOLUME":
                pass  # nothing here depends on them: no port is published, no container is checked
            case _:
                raise RefusedError(f"{instruction.keyword[:50]} is not implemented by the local cloud: leave it out.")

    @property
    def _variables(self) -> dict[str, str]:
        return {**self._arguments, **own_path(self.plan.config)}

    def _change(self, **changes: object) -> None:
        self.plan.config = replace(self.plan.config, **changes)  # type: ignore[arg-type]  # fields by their names

    def _from(self, text: str) -> None:
        if self.started:
            raise RefusedError("A second FROM (a build stage) is not implemented by the local cloud: use one FROM.")
        self.started = True
        words = dockerfile.expand(text, self._arguments).split()
        name = next((word for word in words if not word.startswith("--")), "")
        parent = self._parents.get(name)
        known = PYTHON_IMAGE.match(name)
        if parent is not None and parent.layers:
            self.plan.config = parent
        elif parent is not None:
            self.plan.config = replace(parent, env={"PATH": layouts.IMAGE_PATH, **parent.env}, directories=())
            self.plan.steps.append(MachineBase(parent.python, parent.packages))
            for path in parent.directories:
                self.plan.steps.append(MakeDirectory(path, ""))
        elif host.is_own_system(name):
            self.plan.steps.append(MachineBase(""))
        elif known is not None and host.interpreters(known.group(1)):
            self._change(python=known.group(1), env={"PATH": layouts.IMAGE_PATH})
            self.plan.steps.append(MachineBase(known.group(1)))
        elif name == "scratch":
            self.plan.steps.append(Scratch())
        else:
            self.plan.steps.append(Pull(name))

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
        path = self._path(word)
        self._change(workdir=path)
        self.plan.steps.append(MakeDirectory(path, self.plan.config.user))

    def _path(self, word: str) -> str:
        if not word or "\0" in word or "\n" in word or len(word) > _MAX_PATH:
            raise RefusedError(
                f"A path must have 1 to {_MAX_PATH} characters, without line feeds, unlike {word[:50]!r}."
            )
        path = PurePosixPath("/") / (self.plan.config.workdir or "/") / word
        parts: list[str] = []
        for part in path.parts[1:]:
            if part == "..":
                del parts[-1:]
            else:
                parts.append(part)
        return "/" + "/".join(parts)

    def _user(self, text: str) -> None:
        name = dockerfile.expand(text, self._variables).strip().strip("\"'")
        if not _ACCOUNT.fullmatch(name):
            raise RefusedError(f"USER '{text[:100]}': it must be a name or a number, and after a colon a group.")
        self._change(user="" if name in ("root", "0", "root:root", "0:0") else name)

    def _shell(self, text: str) -> None:
        words = dockerfile.argument_list(text)
        if not words:
            raise RefusedError('SHELL must be a list, as in SHELL ["/bin/bash", "-c"].')
        self._change(shell=tuple(words))

    def _program(self, instruction: Instruction) -> None:
        listed = dockerfile.argument_list(instruction.text)
        if listed is None:
            listed = [*self.plan.config.shell, instruction.text]
        if instruction.keyword == "ENTRYPOINT":
            self._change(entrypoint=tuple(listed), cmd=())  # as Docker does, which drops the base's CMD
        else:
            self._change(cmd=tuple(listed))

    def _copy(self, instruction: Instruction) -> None:
        mode, owner, origin = None, "", ""
        paths: list[str] = []
        for word in dockerfile.words(instruction.text, self._variables):
            name, _, value = word.partition("=")
            if not word.startswith("--"):
                paths.append(word)
            elif name == "--chmod":
                if not re.fullmatch(r"0?[0-7]{3,4}", value):
                    raise RefusedError(f"A mode must be octal digits, as in --chmod=644, not '{value[:60]}'.")
                mode = int(value, 8)
            elif name == "--chown":
                if not _ACCOUNT.fullmatch(value):
                    raise RefusedError(f"An owner must be a user and a group, as in --chown=me:us, not '{value[:60]}'.")
                owner = value
            elif name == "--from":
                origin = value
            elif name != "--link":
                raise RefusedError(f"{name[:50]} is not implemented by the local cloud: leave it out.")
        if len(paths) < 2:
            raise RefusedError(f"{instruction.keyword} needs one source or more, and a destination.")
        *sources, last = paths
        if origin:
            if not _UV_IMAGE.match(origin):
                raise RefusedError(
                    "COPY --from another image is not implemented by the local cloud: copy its files in."
                )
            into = last.endswith("/")
            for source in sources:
                name = PurePosixPath(source).name
                if name == "uv":
                    self.plan.steps.append(PutUv(self._path(f"{last}/{name}" if into else last)))
            return
        for source in sources:
            if re.match(r"\w+://|git@", source):
                raise RefusedError("Files from the network are not implemented by the local cloud: use RUN with curl.")
            if ".." in PurePosixPath(source).parts:
                raise RefusedError(f"'{source[:200]}' has '..' in it: a source must be in the build context.")
        into = last.endswith("/") or last in (".", "./") or len(sources) > 1
        self.plan.steps.append(
            CopyIn(tuple(sources), self._path(last), into, mode, owner, unpack=instruction.keyword == "ADD")
        )

    def _run(self, text: str) -> None:
        while (flag := _FLAG.match(text)) is not None:
            kind = dict(part.partition("=")[::2] for part in (flag.group(2) or "").split(",")).get("type", "bind")
            if flag.group(1) == "mount" and kind not in ("cache", "tmpfs"):
                raise RefusedError(
                    f"RUN --mount=type={kind[:30]} is not implemented by the local cloud: use COPY, or a Modal secret."
                )
            text = text[flag.end() :]
        words = dockerfile.argument_list(text)
        env = {**self._arguments, **own_path(self.plan.config), **self._secrets}
        self.plan.steps.append(
            Run(
                tuple(words) if words else (*self.plan.config.shell, text),
                text,
                tuple(sorted(env.items())),
                self.plan.config.workdir or "/",
                self.plan.config.user,
            )
        )
