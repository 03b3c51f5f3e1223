"""The result of reading one layer: its image's config, and the steps that build it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from workbench.local_cloud.base import host
from workbench.local_cloud.images.installs import NpmInstall, PipInstall, UvSync

DEFAULT_SHELL = ("/bin/sh", "-c")
SCRIPT = "/__modal/script"


@dataclass(frozen=True)
class ImageConfig:
    """An image's config: its environment, working directory, entrypoint and CMD, and its Python.

    `python` is a version `X.Y`. A guest gets `directories` empty and writable, unless the image has files there.
    Without `layers` there is no user: containers run as the cloud's user, and sandboxes as an unprivileged user of
    their own.
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
    packages: tuple[str, ...] = ()  # of this machine's system that it asked for
    layers: tuple[str, ...] = ()  # of its own root file system, the topmost first; empty on this machine's system
    user: str = ""  # `name[:group]` as which its programs run; only with layers
    shell: tuple[str, ...] = DEFAULT_SHELL
    on_build: tuple[str, ...] = ()  # instructions for the build that has this image as its base
    guest_python: str = ""  # with layers: the path of the Python that runs functions, empty if there is none
    builder_version: str = ""  # that the SDK asked for, such as 2025.06; of the image below when it asked for none

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


@dataclass(frozen=True)
class MachineBase:
    """Begin with a base made of this machine's own system. With `python` (`X.Y`) it gets an environment of that Python.

    The files that the image below has, which shares this machine's system, are laid over it. `packages` are those that
    the base has beside its usual ones.
    """

    python: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pull:
    """Begin with an image of a registry, by the name that the layer gives it."""

    name: str


@dataclass(frozen=True)
class Scratch:
    """Begin with no files at all."""


@dataclass(frozen=True)
class RunMount:
    """Something that is mounted while a RUN runs. `kind` is bind, cache, tmpfs or secret.

    `source` is a path in the build context, or with `origin` in an image or stage of that name. `name` is the id of a
    cache or a secret; a secret may also be set as `variable`, and then has no `target` unless one was given.
    """

    kind: str
    target: str = ""
    source: str = ""
    origin: str = ""
    read_only: bool = False
    name: str = ""
    variable: str = ""
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0


@dataclass(frozen=True)
class Run:
    """Run a program as the image's user in its own root file system. `words` are its argv, `text` is what was asked.

    `script` is the text of a file that is at `SCRIPT` meanwhile, empty for none. `stage` is the stage's number, for the
    names in `mounts`. Without `network` it reaches no address but its own loopback.
    """

    words: tuple[str, ...]
    text: str
    env: tuple[tuple[str, str], ...]
    workdir: str
    user: str
    script: str = ""
    mounts: tuple[RunMount, ...] = ()
    stage: int = 0
    network: bool = True


@dataclass(frozen=True)
class CallFunction:
    """Call a function in a container on the image, and keep what it has written to the image's files.

    What decides the layer is the function's source with its options (`definition`), and the digests of the global
    variables that it uses (`variables`) and of its `arguments`. `function_id` names the function in the cloud's store,
    and `payload` is the input for its container.
    """

    function_id: str = field(compare=False)
    payload: bytes = field(compare=False, repr=False)
    definition: str
    variables: str
    arguments: str

    def parts(self) -> list[str]:
        """Return what decides the layer."""
        return [self.definition, self.variables, self.arguments]


@dataclass(frozen=True)
class CopyFiles:
    """Copy files of the build context into the image's own root file system.

    `mode` is as chmod takes it, empty for the files' own. `owner` is `user[:group]`; `excluded` are patterns below a
    source; with `unpack`, archives are unpacked.
    """

    sources: tuple[str, ...]
    destination: str
    into: bool
    mode: str
    owner: str
    unpack: bool
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class CopyFrom:
    """Copy files of another image, or of a stage before the stage of a number. `origin` is a name or a number."""

    origin: str
    stage: int
    copy: CopyFiles


@dataclass(frozen=True)
class Download:
    """Copy a file of the network into the image. `checksum` is the sha256 that it must have, empty for any."""

    url: str
    checksum: str
    copy: CopyFiles


@dataclass(frozen=True)
class Write:
    """Copy a here-document into the image as if it were a file of that name."""

    name: str
    text: str
    copy: CopyFiles


@dataclass(frozen=True)
class PutUv:
    """Copy this machine's `uv` or `uvx`, in place of a COPY from uv's own image, if it runs in the image.

    Otherwise it is that COPY, `copy` from `origin`.
    """

    program: str
    origin: str
    copy: CopyFiles

    @property
    def path(self) -> str:
        """The path of the program in the image."""
        return f"{self.copy.destination.rstrip('/')}/{self.program}" if self.copy.into else self.copy.destination


@dataclass(frozen=True)
class MakeDirectory:
    """Make a directory in the image's own root file system, owned by its user."""

    path: str
    owner: str


Step = (
    MakePython
    | Adopt
    | Copy
    | PipInstall
    | UvSync
    | NpmInstall
    | MachineBase
    | Pull
    | Scratch
    | Run
    | CallFunction
    | CopyFiles
    | CopyFrom
    | Download
    | Write
    | PutUv
    | MakeDirectory
)


@dataclass
class Plan:
    """A layer that can be built here: the image's config, the steps of the build, and the lines its log begins with.

    With `rooted` the image gets a root file system of its own.
    """

    config: ImageConfig
    steps: list[Step] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    rooted: bool = False
