"""An image's configuration: how its programs start, for which processor it is, and the digests of its unpacked layers.

Read once, from a blob whose digest was verified; what it says still comes from a stranger. Does no I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from workbench.local_cloud.registry.digests import check_digest
from workbench.local_cloud.registry.errors import damaged


@dataclass(frozen=True)
class ImageConfig:
    """What the images of Docker and of OCI say alike. A health check and volumes are ignored."""

    os: str
    architecture: str
    variant: str
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: Mapping[str, str]  # in the image's order; of a name given twice, the last counts
    user: str  # `name|uid[:group|gid]`, empty for root
    workdir: str  # empty for /
    shell: tuple[str, ...]  # of the build's later RUN lines; empty for the default
    labels: Mapping[str, str]
    exposed_ports: tuple[str, ...]  # such as `8080/tcp`
    stop_signal: str
    on_build: tuple[str, ...]  # Dockerfile instructions for the build that has this image as its base
    history: tuple[str, ...]  # how each step was made, the empty ones included, oldest first
    diff_ids: tuple[str, ...]  # one for each layer, lowest first


def _nothing_is_empty(value: Any) -> Any:
    return () if value is None else value


def _one_word_is_a_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _nothing_is_empty(value)


def _nothing_is_no_text(value: Any) -> Any:
    return "" if value is None else value


def _nothing_is_no_pair(value: Any) -> Any:
    return {} if value is None else value


_Text = Annotated[str, BeforeValidator(_nothing_is_no_text), Field(max_length=1 << 20, pattern=r"^[^\x00]*$")]
_Words = Annotated[tuple[_Text, ...], BeforeValidator(_one_word_is_a_list), Field(max_length=10_000)]
_Pairs = Annotated[dict[_Text, Any], BeforeValidator(_nothing_is_no_pair), Field(max_length=10_000)]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Settings(_Read):
    Entrypoint: _Words = ()
    Cmd: _Words = ()
    Env: _Words = ()
    User: _Text = ""
    WorkingDir: _Text = ""
    Shell: _Words = ()
    Labels: _Pairs = Field(default_factory=dict)
    ExposedPorts: _Pairs = Field(default_factory=dict)
    StopSignal: _Text = ""
    OnBuild: _Words = ()


class _Step(_Read):
    created_by: _Text = ""


class _RootFs(_Read):
    diff_ids: tuple[str, ...] = Field(max_length=1000)


class _Config(_Read):
    os: _Text = "linux"
    architecture: _Text = ""
    variant: _Text = ""
    config: Annotated[_Settings, BeforeValidator(_nothing_is_no_pair)] = _Settings()
    rootfs: _RootFs
    history: Annotated[tuple[_Step, ...], BeforeValidator(_nothing_is_empty), Field(max_length=10_000)] = ()


def read_config(data: bytes) -> ImageConfig:
    """Read a configuration. Raises RegistryError DATA_LOSS for what is none."""
    try:
        read = _Config.model_validate_json(data)
    except ValidationError as error:
        raise damaged(f"The image's configuration is no valid one: {_first(error)}.") from None
    settings = read.config
    return ImageConfig(
        os=read.os,
        architecture=read.architecture,
        variant=read.variant,
        entrypoint=settings.Entrypoint,
        cmd=settings.Cmd,
        env=_environment(settings.Env),
        user=settings.User,
        workdir=settings.WorkingDir,
        shell=settings.Shell,
        labels=MappingProxyType({name: str(value) for name, value in settings.Labels.items()}),
        exposed_ports=tuple(settings.ExposedPorts),
        stop_signal=settings.StopSignal,
        on_build=settings.OnBuild,
        history=tuple(step.created_by for step in read.history),
        diff_ids=tuple(check_digest(digest) for digest in read.rootfs.diff_ids),
    )


def _environment(lines: tuple[str, ...]) -> Mapping[str, str]:
    env = {}
    for line in lines:
        name, _, value = line.partition("=")
        if name:
            env[name] = value
    return MappingProxyType(env)


def _first(error: ValidationError) -> str:
    """The place of the first thing that is wrong; never its value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part)[:50] for part in first["loc"][:6])
    return f"{place or 'it'} ({first['type']})"
