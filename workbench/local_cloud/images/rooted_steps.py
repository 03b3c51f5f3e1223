"""Reads one layer of an image that has a root file system of its own: its RUN lines are given to a real shell.

`steps` reads the images that share this machine's system. What it refuses, and every base that is not this machine's
system, is read here. A base's config is known only once it is there, so that a stage is read while it is built; that
there is nothing to be refused in it is looked for before, as far as that can be told without the variables of a base
that has yet to be pulled.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath

from modal_proto import api_pb2

from workbench.local_cloud.base import host
from workbench.local_cloud.images import dockerfile
from workbench.local_cloud.images.dockerfile import Instruction, RefusedError
from workbench.local_cloud.images.downloads import check_url
from workbench.local_cloud.images.plans import (
    SCRIPT,
    CallFunction,
    CopyFiles,
    CopyFrom,
    Download,
    ImageConfig,
    MachineBase,
    MakeDirectory,
    Plan,
    Pull,
    PutUv,
    Run,
    Scratch,
    Step,
    Write,
)
from workbench.local_cloud.images.reading import (
    PYTHON_IMAGE,
    UV_IMAGE,
    ConfigReader,
    arguments,
    base_name,
    carry_out,
    check,
    platform_arguments,
)
from workbench.local_cloud.images.run_mounts import asked, read
from workbench.local_cloud.rootfs.modes import is_mode

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(?::[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?", re.ASCII)
_DOWNLOADED = "u=rw,go="  # the mode of a file of the network
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_URL = re.compile(r"\w+://|git@")
_MAX_PATH = 4000
_ROOT = ("root", "0", "root:root", "0:0", "root:0", "0:root")


def interpret(
    image: api_pb2.Image, parents: Mapping[str, ImageConfig], *, secrets: Mapping[str, str], function_id: str = ""
) -> Plan:
    """Read a layer and return how to build it on a root file system of its own.

    `parents` are the configs of the images that its FROM may name, `secrets` the environment variables of its RUN
    steps, and `function_id` the function that it calls instead of having instructions. Raises RefusedError.
    """
    check(image)
    stages = Stages(parents=parents, secrets=secrets, build_args=dict(image.build_args))
    call = _call(image, parents, function_id) if image.HasField("build_function") else None
    for instruction in dockerfile.instructions(["FROM base"] if call is not None else image.dockerfile_commands):
        carry_out(instruction, stages.add)
    if not stages.stages:
        raise RefusedError("The layer has no FROM: begin it with one.")
    plan = RootedPlan(ImageConfig(), rooted=True, stages=stages, call=call)
    configs: dict[int, ImageConfig] = {}  # of stages, as they end
    pulled: set[int] = set()  # the stages whose first base has yet to be pulled
    for number in stages.needed():
        base = stages.base(number)
        known = configs[base] if isinstance(base, int) else base if isinstance(base, ImageConfig) else ImageConfig()
        if isinstance(base, Pull) or (isinstance(base, int) and base in pulled):
            pulled.add(number)
        plan.steps += [] if isinstance(base, int) or known.layers else [_made_by(base)]
        reader = stages.reader(number, known)
        for instruction in (*dockerfile.instructions(known.on_build), *stages.stages[number].instructions):
            try:
                plan.steps += reader.steps(instruction)
            except RefusedError:
                if number not in pulled or not _has_variables(instruction):
                    raise
        plan.config = configs[number] = reader.config
    plan.steps += [call] if call is not None else []
    if not plan.steps:  # nothing is built, so that nothing says what was read
        plan.log = [str(instruction) for stage in stages.stages for instruction in stage.instructions]
    return plan


def _has_variables(instruction: Instruction) -> bool:
    return any("$" in text for text in (instruction.text, *(each.text for each in instruction.documents)))


def _call(image: api_pb2.Image, parents: Mapping[str, ImageConfig], function_id: str) -> CallFunction:
    if image.dockerfile_commands or set(parents) != {"base"}:
        raise RefusedError("A layer of run_function has one image below it, and no instructions.")
    function = image.build_function
    payload = function.input.SerializeToString(deterministic=True)
    digests = [hashlib.sha256(part).hexdigest() for part in (function.globals, payload)]
    return CallFunction(function_id, payload, function.definition, *digests)


def _made_by(base: "ImageConfig | Step") -> Step:
    return MachineBase(base.python, base.packages) if isinstance(base, ImageConfig) else base


def own_path(config: ImageConfig) -> dict[str, str]:
    """Return a config's environment variables, with a PATH."""
    return {"PATH": PATH, **config.env}


@dataclass
class Stage:
    """One stage of a build: its own name in small letters, or empty, the base that its FROM names, and the rest."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


@dataclass
class Stages:
    """The stages of one layer, of which the last one is the image.

    `parents` are the configs of the images that are there already, by the names that they have in the text.
    """

    parents: Mapping[str, ImageConfig]
    secrets: Mapping[str, str]
    build_args: Mapping[str, str]
    stages: list[Stage] = field(default_factory=list)
    common: dict[str, str] = field(default_factory=platform_arguments)  # arguments from before the first FROM

    def add(self, instruction: Instruction) -> None:
        """Add the next instruction. Raises RefusedError."""
        if instruction.keyword == "FROM":
            base, name = base_name(instruction, self.common)
            self.stages.append(Stage(name, base))
        elif self.stages:
            self.stages[-1].instructions.append(instruction)
        elif instruction.keyword == "ARG":
            self.common |= arguments(instruction, self.common, self.build_args, {})
        else:
            raise RefusedError(f"A layer must begin with FROM, not {instruction.keyword[:50]}.")

    def number(self, name: str, *, before: int, counted: bool = False) -> int | None:
        """Return the number of the stage of a name, the last one before another stage; None if there is none.

        With `counted`, a number may stand for the name.
        """
        for number in reversed(range(before)):
            if self.stages[number].name == name.lower():
                return number
        if counted and name in map(str, range(before)):
            return int(name)
        return None

    def base(self, number: int) -> "ImageConfig | int | Step":
        """Return what a stage begins with: the config of an image, the number of a stage, or the step that makes it."""
        return self.origin(self.stages[number].base, before=number)

    def origin(self, name: str, *, before: int, counted: bool = False) -> "ImageConfig | int | Step":
        """Return what a name in a FROM or a COPY --from stands for."""
        stage = self.number(name, before=before, counted=counted)
        known = PYTHON_IMAGE.match(name)
        if stage is not None:
            return stage
        if name in self.parents:
            return self.parents[name]
        if host.is_own_system(name):
            return MachineBase("")
        if known is not None and host.interpreters(known.group(1)):
            return MachineBase(known.group(1))
        return Scratch() if name == "scratch" else Pull(name)

    def needed(self) -> list[int]:
        """Return the numbers of the stages that the last one is made from, and of itself, in their order."""
        found: set[int] = set()
        waiting = [len(self.stages) - 1]
        while waiting:
            number = waiting.pop()
            if number in found:
                continue
            found.add(number)
            base = self.base(number)
            waiting += [base] if isinstance(base, int) else []
            for instruction in self.stages[number].instructions:
                for name in _origins(instruction):
                    other = self.number(name, before=number, counted=True)
                    waiting += [other] if other is not None else []
        return sorted(found)

    def reader(self, number: int, config: ImageConfig) -> "StageReader":
        """Return what reads the instructions of a stage, whose base has a config."""
        return StageReader(self, number, config)


def _origins(instruction: Instruction) -> Iterator[str]:
    """Yield the names of the images and stages from which an instruction takes files."""
    for flag, value in dockerfile.flags(instruction.text)[0]:
        if flag == "from":
            yield value
        elif flag == "mount":
            yield from (part.partition("=")[2] for part in value.split(",") if part.lower().startswith("from="))


@dataclass
class RootedPlan(Plan):
    """A layer for a root file system of its own; `call` follows after the last instruction.

    `steps` are those that can be told before the configs of bases are known; without any, nothing has to be built.
    """

    stages: Stages = field(default_factory=lambda: Stages({}, {}, {}))
    call: CallFunction | None = None


class StageReader(ConfigReader):
    """Reads the instructions of one stage in their order, and says which steps carry them out."""

    def __init__(self, stages: Stages, number: int, config: ImageConfig) -> None:
        super().__init__(replace(config, on_build=()), build_args=stages.build_args, path=PATH, common=stages.common)
        self._stages = stages
        self._number = number

    def steps(self, instruction: Instruction) -> list[Step]:
        """Change the config, and return the steps that an instruction needs. Raises RefusedError."""
        found: list[Step] = []
        carry_out(instruction, lambda each: found.extend(self._read(each)))
        return found

    def _read(self, instruction: Instruction) -> Iterator[Step]:
        if self.read_config(instruction):
            return
        match instruction.keyword:
            case "WORKDIR":
                path = self._path(self.word(instruction))
                self.change(workdir=path)
                yield MakeDirectory(path, self.config.user)
            case "VOLUME":
                for word in self.words(instruction.text, instruction):
                    yield MakeDirectory(self._path(word), "")
            case "USER":
                self._user(self.word(instruction))
            case "ONBUILD":
                self._on_build(instruction)
            case "COPY" | "ADD":
                yield from self._copy(instruction)
            case "RUN":
                yield self._run(instruction)
            case keyword:
                raise RefusedError(f"{keyword[:50]} is not a known instruction: correct it, or leave it out.")

    def _path(self, word: str) -> str:
        if not word or "\0" in word or "\n" in word or len(word) > _MAX_PATH:
            raise RefusedError(
                f"A path must have 1 to {_MAX_PATH} characters, without line feeds, unlike {word[:50]!r}."
            )
        path = PurePosixPath("/") / (self.config.workdir or "/") / word
        parts: list[str] = []
        for part in path.parts[1:]:
            if part == "..":
                del parts[-1:]
            else:
                parts.append(part)
        return "/" + "/".join(parts)

    def _user(self, name: str) -> None:
        if not _ACCOUNT.fullmatch(name):
            raise RefusedError(f"USER '{name[:100]}': it must be a name or a number, and after a colon a group.")
        self.change(user="" if name in _ROOT else name)

    def _on_build(self, instruction: Instruction) -> None:
        later = dockerfile.instructions([instruction.text])
        if instruction.documents or len(later) != 1 or later[0].keyword in ("FROM", "MAINTAINER", "ONBUILD"):
            raise RefusedError("ONBUILD takes one instruction, without a here-document, and not FROM or ONBUILD.")
        self.change(on_build=(*self.config.on_build, instruction.text))

    def _copy(self, instruction: Instruction) -> Iterator[Step]:
        flags, rest = dockerfile.flags(instruction.text)
        step = CopyFiles((), "", into=False, mode="", owner="", unpack=instruction.keyword == "ADD")
        origin = checksum = ""
        for name, raw in flags:
            value = dockerfile.word(raw, self.variables, escape=instruction.escape)
            match name:
                case "chmod":
                    if value and not is_mode(value):
                        raise RefusedError(
                            "A mode must be octal digits or symbols, as in --chmod=644 and --chmod=u=rwX,go=rX, not "
                            f"'{value[:60]}'."
                        )
                    step = replace(step, mode=value)
                case "chown":
                    if not _ACCOUNT.fullmatch(value):
                        raise RefusedError(
                            f"An owner must be a user and a group, as in --chown=me:us, not '{value[:60]}'."
                        )
                    step = replace(step, owner=value)
                case "exclude":
                    step = replace(step, excluded=(*step.excluded, value))
                case "from" if instruction.keyword == "COPY":
                    origin = value
                case "checksum" if instruction.keyword == "ADD":
                    if not _SHA256.fullmatch(value):
                        raise RefusedError(f"A checksum must be sha256: and 64 digits, not '{value[:80]}'.")
                    checksum = value.removeprefix("sha256:")
                case "link":
                    pass  # the same files come of it
                case _:
                    raise RefusedError(f"{instruction.keyword} --{name[:50]} is not implemented by the local cloud.")
        *sources, last = self.words(rest, instruction) or [""]
        if not sources:
            raise RefusedError(f"{instruction.keyword} needs one source or more, and a destination.")
        step = replace(step, into=last.endswith("/") or last in (".", "./", "..") or len(sources) > 1)
        step = replace(step, destination=self._path(last))
        if origin:
            yield from self._copy_from(origin, replace(step, sources=tuple(sources)))
        else:
            yield from self._copy_each(instruction, sources, step, checksum)

    def _copy_from(self, name: str, step: CopyFiles) -> Iterator[Step]:
        if self._stages.number(name, before=self._number, counted=True) is None and UV_IMAGE.match(name):
            for source in step.sources:
                if source.strip("/") not in ("uv", "uvx"):
                    raise RefusedError(f"The image {name[:100]} has the programs /uv and /uvx only: copy these.")
                yield PutUv(PurePosixPath(source).name, name, replace(step, sources=(source,)))
        else:
            if name.isdecimal() and self._stages.number(name, before=self._number, counted=True) is None:
                raise RefusedError(f"COPY --from={name[:50]}: there is no such stage before this one.")
            yield CopyFrom(name, self._number, step)

    def _copy_each(
        self, instruction: Instruction, sources: list[str], step: CopyFiles, checksum: str
    ) -> Iterator[Step]:
        """Yield the copies of files of the context, of files of the network, and of here-documents, in their order."""
        documents = {f"<<{'-' * each.tabs}{each.name}": each for each in instruction.documents}
        local: list[str] = []
        for source in sources:
            if (document := documents.get(source)) is not None:
                text = document.content()
                if document.expands:
                    text = dockerfile.expand(text, self.variables, escape=instruction.escape)
                yield Write(document.name, text, replace(step, unpack=False))
            elif _URL.match(source):
                if step.unpack is False:
                    raise RefusedError("COPY takes no files of the network: use ADD.")
                check_url(source)
                mode = step.mode if step.mode.isdigit() else ",".join(filter(None, (_DOWNLOADED, step.mode)))
                yield Download(source, checksum, replace(step, unpack=False, mode=mode))
            elif ".." in PurePosixPath(source).parts:
                raise RefusedError(f"'{source[:200]}' has '..' in it: a source must be in the build context.")
            else:
                local.append(source)
        if local:
            yield replace(step, sources=tuple(local))

    def _run(self, instruction: Instruction) -> Run:
        found = asked(instruction)
        text = found.command
        expand = partial(dockerfile.expand, variables=self.variables, escape=instruction.escape)
        workdir = self.config.workdir or "/"
        script = _script(text, instruction)
        words = [SCRIPT] if script else dockerfile.argument_list(text)
        env = {**self.arguments, **own_path(self.config), **self._stages.secrets}
        return Run(
            tuple(words or (*self.config.shell, _with_documents(text, instruction))),
            _in_full(text, instruction),
            tuple(sorted(env.items())),
            workdir,
            self.config.user,
            script,
            read(found.mounts, expand=expand, workdir=workdir, secrets=self._stages.secrets),
            self._number,
            found.network,
        )


def _with_documents(text: str, instruction: Instruction) -> str:
    """Return what the shell gets: the command with its here-documents, or the only one's text without a command."""
    if _is_alone(text, instruction):
        return instruction.documents[0].content()
    return _in_full(text, instruction)


def _in_full(text: str, instruction: Instruction) -> str:
    return "\n".join([text, *(f"{document.text}{document.name}" for document in instruction.documents)])


def _script(text: str, instruction: Instruction) -> str:
    """Return a here-document that is a program of its own, since it begins with #!; empty if there is none."""
    content = instruction.documents[0].content() if _is_alone(text, instruction) else ""
    return content if content.startswith("#!") else ""


def _is_alone(text: str, instruction: Instruction) -> bool:
    return len(instruction.documents) == 1 and re.fullmatch(r"\d*<<-?(['\"]?)[^\s'\"]+\1", text) is not None
