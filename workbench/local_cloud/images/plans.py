"""What is known of one layer once it is read: what its image means to what runs from it, and what builds it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from workbench.local_cloud.images import host
from workbench.local_cloud.images.installs import NpmInstall, PipInstall, UvSync


@dataclass(frozen=True)
class Meaning:
    """What an image is to what runs from it. `directories` are made empty and writable, if they are not files of it.

    USER is read and has no effect: containers run as the cloud's user and sandboxes as one of their own, never as root.
    """

    python: str = host.OWN_PYTHON
    env: dict[str, str] = field(default_factory=dict)
    workdir: str | None = None
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    installed: bool = False  # whether an installer has put anything into its environment
    interpreter: str = ""  # the Python that its environment was made from, empty when it has none
    interpreter_prefix: str = ""  # where that lies, empty below /usr; guests see the image's copy there

    def to_json(self) -> str:
        """The meaning as it is kept."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Meaning":
        """A meaning that was kept."""
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
        }
        return cls(**kept)


@dataclass(frozen=True)
class MakePython:
    """Make an environment of a version, with the SDK in it when it is another than the cloud's own."""

    version: str


@dataclass(frozen=True)
class Adopt:
    """Copy packages of the cloud's own environment, `name==version`, into the image's."""

    packages: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """Lay files of the build context into the image; `mode` replaces theirs."""

    sources: tuple[str, ...]
    destination: PurePosixPath
    into: bool
    mode: int | None = None


Step = MakePython | Adopt | Copy | PipInstall | UvSync | NpmInstall


@dataclass
class Plan:
    """A layer that can be had here: what the image will mean and what to build."""

    meaning: Meaning
    steps: list[Step] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
