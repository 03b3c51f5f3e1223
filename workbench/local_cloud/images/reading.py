"""What both readers of layers have in common: the instructions that change an image's config, and nothing else.

`steps` reads layers for this machine's own system, `rooted_steps` those for a root file system of their own.
"""

import platform
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from modal_proto import api_pb2

from workbench.local_cloud.images import dockerfile
from workbench.local_cloud.images.dockerfile import Instruction, RefusedError
from workbench.local_cloud.images.plans import ImageConfig

MAX_ENV_CHARS = 128 * 1024
PYTHON_IMAGE = re.compile(
    r"^(?:docker\.io/)?(?:library/)?python:(3\.\d{1,2})(?:\.\d+)?(?:-(?:slim|bookworm|bullseye|trixie))*$"
)
UV_IMAGE = re.compile(r"(?:(?:ghcr\.io/)?astral-sh/uv|(?:docker\.io/)?astral/uv)(?::|@|$)")
# Nothing here depends on them: no port is published, no container is checked or stopped by a signal of its own.
WITHOUT_EFFECT = frozenset(("LABEL", "EXPOSE", "MAINTAINER", "STOPSIGNAL", "HEALTHCHECK"))
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ENV_NAME = re.compile(r"[^\s=\0]+")
_STAGE = re.compile(r"[a-z][a-z0-9_.-]*", re.ASCII)
_PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64"}
# Build arguments that reach RUN without an ARG.
_PROXIES = re.compile(r"(?:https?|ftp|all|no)_proxy", re.IGNORECASE)


def check(image: api_pb2.Image) -> None:
    """Refuse what no image can have here. Raises RefusedError."""
    if image.gpu_config.gpu_type or image.gpu_config.type:
        raise RefusedError("GPUs are not available on the local cloud: build the image without one.")
    if image.volume_mounts:
        raise RefusedError("The local cloud mounts no volumes into image builds: copy the files instead.")


def carry_out(instruction: Instruction, read: Callable[[Instruction], None]) -> None:
    """Read one instruction; a refusal gets the instruction's text. Raises RefusedError."""
    try:
        read(instruction)
    except RefusedError as refusal:
        raise type(refusal)(f"{refusal} The layer was: {str(instruction)[:500]}") from None


def platform_arguments() -> dict[str, str]:
    """Return the arguments that every build has, once an ARG names them."""
    processor = _PROCESSORS.get(platform.machine(), platform.machine())
    found = {"TARGETSTAGE": ""}
    for kind in ("TARGET", "BUILD"):
        found |= {f"{kind}PLATFORM": f"linux/{processor}", f"{kind}OS": "linux", f"{kind}ARCH": processor}
        found[f"{kind}VARIANT"] = ""
    return found


def base_name(instruction: Instruction, common: Mapping[str, str]) -> tuple[str, str]:
    """Return the base that a FROM names, and its stage's own name in small letters, or empty. Raises RefusedError."""
    flags, rest = dockerfile.flags(dockerfile.expand(instruction.text, common, escape=instruction.escape))
    for name, value in flags:
        if name != "platform":
            raise RefusedError(f"FROM --{name[:50]} is not known: leave it out.")
        if value and _processor_of(value) != platform_arguments()["TARGETARCH"]:
            raise RefusedError(
                f"FROM --platform={value[:50]} is for another processor than this machine's ({platform.machine()}), "
                "whose programs cannot be run here: leave it out."
            )
    match rest.split():
        case [name]:
            return name, ""
        case [name, middle, stage] if middle.lower() == "as" and _STAGE.fullmatch(stage.lower()):
            return name, stage.lower()
        case _:
            raise RefusedError(f"FROM must be an image, or an image AS a name, not '{rest[:200]}'.")


def _processor_of(text: str) -> str:
    parts = text.lower().split("/")
    if parts[0] != "linux" or len(parts) == 1:
        return parts[0] if parts[0] != "linux" else platform_arguments()["TARGETARCH"]
    return _PROCESSORS.get(parts[1], parts[1])


class ConfigReader:
    """Reads the instructions of one build stage that change the config; `config` is what has come of it until now."""

    def __init__(
        self,
        config: ImageConfig,
        *,
        build_args: Mapping[str, str],
        path: str,
        common: Mapping[str, str] | None = None,
    ) -> None:
        """`path` is the PATH of an image that sets none, and `common` the arguments that were set before the FROM."""
        self.config = config
        self.arguments: dict[str, str] = {name: value for name, value in build_args.items() if _PROXIES.fullmatch(name)}
        self._build_args = build_args
        self._default_path = path
        self._common = {**platform_arguments(), **(common or {})}
        self._has_cmd = False  # of its own, not of the base

    @property
    def variables(self) -> dict[str, str]:
        """What a variable in an instruction stands for: the environment, and behind it the arguments."""
        return {**self.arguments, "PATH": self._default_path, **self.config.env}

    def change(self, **changes: object) -> None:
        """Change fields of the config."""
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]  # fields by their names

    def word(self, instruction: Instruction) -> str:
        """Return an instruction's text as one word."""
        return dockerfile.word(instruction.text, self.variables, escape=instruction.escape)

    def words(self, text: str, instruction: Instruction) -> list[str]:
        """Return a part of an instruction's text as words."""
        return dockerfile.words(text, self.variables, escape=instruction.escape)

    def read_config(self, instruction: Instruction) -> bool:
        """Carry out an instruction that changes nothing but the config; False if it is none. Raises RefusedError."""
        match instruction.keyword:
            case "ENV":
                self._env(instruction)
            case "ARG":
                self.arguments |= arguments(instruction, self.variables, self._build_args, self._common)
            case "ENTRYPOINT" | "CMD":
                self._program(instruction)
            case "SHELL":
                listed = dockerfile.argument_list(instruction.text)
                if not listed:
                    raise RefusedError('SHELL must be a list, as in SHELL ["/bin/bash", "-c"].')
                self.change(shell=tuple(listed))
            case keyword if keyword not in WITHOUT_EFFECT:
                return False
        return True

    def _env(self, instruction: Instruction) -> None:
        env = dict(self.config.env)
        for name, value in dockerfile.pairs(instruction.text, self.variables, escape=instruction.escape):
            if not _ENV_NAME.fullmatch(name) or "\0" in value:
                raise RefusedError(f"ENV '{name[:100]}': a name has no blank, '=' or NUL, a value has no NUL.")
            env[name] = value
        if sum(len(name) + len(value) for name, value in env.items()) > MAX_ENV_CHARS:
            raise RefusedError(f"An image's environment has at most {MAX_ENV_CHARS} characters, and this is longer.")
        self.change(env=env)

    def _program(self, instruction: Instruction) -> None:
        listed = dockerfile.argument_list(instruction.text)
        if listed is None:
            listed = [*self.config.shell, instruction.text] if instruction.text else []
        if instruction.keyword == "CMD":
            self._has_cmd = True
            self.change(cmd=tuple(listed))
        else:  # the base's CMD was made for the base's entrypoint
            self.change(entrypoint=tuple(listed), cmd=self.config.cmd if self._has_cmd else ())


def arguments(
    instruction: Instruction, variables: Mapping[str, str], build_args: Mapping[str, str], common: Mapping[str, str]
) -> dict[str, str]:
    """Return what an ARG sets. The build's arguments win over its defaults, and these over `common`.

    Raises RefusedError.
    """
    found: dict[str, str] = {}
    for each in dockerfile.words(instruction.text, variables, escape=instruction.escape):
        name, equals, default = each.partition("=")
        if not _NAME.fullmatch(name):
            raise RefusedError(f"ARG '{name[:100]}': a name must be letters, digits and underscores.")
        if name in build_args:
            found[name] = build_args[name]
        elif equals:
            found[name] = default
        elif name in common:
            found[name] = common[name]
    if not instruction.text:
        raise RefusedError("ARG needs a name.")
    return found
