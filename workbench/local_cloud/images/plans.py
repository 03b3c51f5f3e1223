"""The result of reading one layer: its image's config, and the steps that build it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from workbench.local_cloud.images import host
from workbench.local_cloud.images.installs import NpmInstall, PipInstall, UvSync


@dataclass(frozen=True)
class ImageConfig:
    """An image's config: its environment, working directory, entrypoint and CMD, and its Python.

    `python` is a version `X.Y`. A guest gets `directories` empty and writable, unless the image has files there. There
    is no user: containers run as the cloud's user, and sandboxes as an unprivileged user of their own.
    """

    python: str = host.OWN_PYTHON
    env: dict[str, str] = field(default_factory=dict)
    workdir: str | None = None
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    installed: bool = False  # whether an installer has put anything into its Python environment
    interpreter: str = ""  # the Python from which its environment was made, empty without an environment
    interpreter_prefix: str = ""  # that Python's prefix, empty below /usr; guests see the image's copy there

    def to_json(self) -> str:
        """Return the config as it is stored."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ImageConfig":
        """Return a config that was stored."""
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
        }
        return cls(**kept)


@dataclass(frozen=True)
class MakePython:
    """Make a Python environment of a version `X.Y`. If that is not the cloud's own, the SDK is installed into it."""

    version: str


@dataclass(frozen=True)
class Adopt:
    """Copy packages (`name==version`) from the cloud's own Python environment into the image's."""

    packages: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """Copy files of the build context into the image: into the directory `destination` if `into`, else to that path.

    `mode` replaces the permission bits of the files; None keeps them.
    """

    sources: tuple[str, ...]
    destination: PurePosixPath
    into: bool
    mode: int | None = None


Step = MakePython | Adopt | Copy | PipInstall | UvSync | NpmInstall


@dataclass
class Plan:
    """A layer that can be built here: the image's config, the steps of the build, and the lines its log begins with."""

    config: ImageConfig
    steps: list[Step] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
