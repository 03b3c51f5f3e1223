"""Reads the flags of a RUN, as Docker's builder defines them, and refuses what a step cannot have here."""

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from workbench.local_cloud.images import dockerfile
from workbench.local_cloud.images.dockerfile import Instruction, RefusedError
from workbench.local_cloud.images.plans import RunMount

MAX_MOUNTS = 100
BIND, CACHE, TMPFS, SECRET = "bind", "cache", "tmpfs", "secret"
_TARGET = {"target": "target", "dst": "target", "destination": "target"}
_OWNER = {"mode": "mode", "uid": "uid", "gid": "gid"}
_READ_ONLY = {name: name for name in ("ro", "readonly", "rw", "readwrite")}
_ORIGIN = {"source": "source", "src": "source", "from": "from"}
# The options of each type, with the one name for those that have several.
_OPTIONS: dict[str, Mapping[str, str]] = {
    BIND: {**_TARGET, **_ORIGIN, **_READ_ONLY},
    CACHE: {**_TARGET, **_ORIGIN, **_READ_ONLY, **_OWNER, "id": "id", "sharing": "sharing"},
    TMPFS: {**_TARGET, "size": "size"},
    SECRET: {**_TARGET, **_OWNER, "id": "id", "source": "id", "src": "id", "required": "required", "env": "env"},
}
_HAD = (("network", "default"), ("network", "none"), ("security", "sandbox"))  # the flags that a step may have
_OWN = ("proc", "dev", "sys", "__modal")  # at the top: the kernel's and ours
_SIZE = re.compile(r"(\d{1,15})([kmg]?)b?", re.IGNORECASE | re.ASCII)
_SCALE = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_MAX_TMPFS_BYTES = 4 << 30
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ID = 65_536


@dataclass(frozen=True)
class Asked:
    """What a RUN asks for: its command, the texts of its mounts, and whether it has the network."""

    command: str
    mounts: tuple[str, ...]
    network: bool


def asked(instruction: Instruction) -> Asked:
    """Read a RUN's flags. Raises RefusedError for those that would be missed, and for a RUN without a command."""
    flags, command = dockerfile.flags(instruction.text)
    for name, value in flags:
        if name != "mount" and (name, value) not in _HAD:
            raise RefusedError(f"RUN --{name[:50]}={value[:50]} is not implemented by the local cloud.")
    if not command or dockerfile.argument_list(command) == []:
        raise RefusedError("RUN needs a command.")
    networks = [value for name, value in flags if name == "network"]
    mounts = tuple(value for name, value in flags if name == "mount")
    return Asked(command, mounts, network=networks[-1:] != ["none"])


def read(
    found: Iterable[str], *, expand: Callable[[str], str], workdir: str, secrets: Mapping[str, str]
) -> tuple[RunMount, ...]:
    """Return the mounts that texts ask for; `expand` replaces their variables, `secrets` are those of the build.

    Raises RefusedError.
    """
    mounts = tuple(_read(expand(text), workdir, secrets) for text in found)
    if len(mounts) > MAX_MOUNTS:
        raise RefusedError(f"A RUN has at most {MAX_MOUNTS} mounts, and this one has {len(mounts)}.")
    return mounts


def _read(text: str, workdir: str, secrets: Mapping[str, str]) -> RunMount:
    given = [part.partition("=") for part in text.split(",")]
    kind = next((value.lower() for name, _, value in given if name.strip().lower() == "type"), BIND)
    if kind == "ssh":
        raise RefusedError(
            "RUN --mount=type=ssh is not implemented by the local cloud, whose builds have no SSH agent: give a deploy "
            "key or a token with secrets=, and mount it with --mount=type=secret."
        )
    if kind not in _OPTIONS:
        raise RefusedError(f"RUN --mount=type={kind[:30]} is not known: use bind, cache, tmpfs or secret.")
    options: dict[str, str] = {}
    for raw, equals, value in given:
        name = raw.strip().lower()
        if name == "type":
            continue
        if name not in _OPTIONS[kind]:
            raise RefusedError(f"RUN --mount=type={kind} has no option '{name[:50]}': leave it out.")
        options[_OPTIONS[kind][name]] = value if equals else "true"
    mount = RunMount(kind, source=options.get("source", ""), origin=options.get("from", ""))
    if ".." in mount.source.split("/"):
        raise RefusedError(f"RUN --mount: '{mount.source[:200]}' has '..' in it: name a source in the build context.")
    mount = _owned(mount, options)
    mount = replace(mount, read_only=_is_read_only(kind, options))
    if kind == TMPFS:
        return replace(mount, target=_target(options, workdir), size_bytes=_size(options.get("size", "1g")))
    if kind == CACHE:
        if options.get("sharing", "shared") not in ("shared", "private", "locked"):
            raise RefusedError("RUN --mount=type=cache: sharing is shared, private or locked.")
        target = _target(options, workdir)
        return replace(mount, target=target, name=options.get("id", target))
    if kind == SECRET:
        return _secret(mount, options, workdir, secrets)
    return replace(mount, target=_target(options, workdir))


def _secret(mount: RunMount, options: Mapping[str, str], workdir: str, secrets: Mapping[str, str]) -> RunMount:
    """Read a mount of a secret: its id is the name of a variable in one of the build's secrets."""
    name = options.get("id") or posixpath.basename(options.get("target", ""))
    if not name:
        raise RefusedError("RUN --mount=type=secret needs an id: the name of a variable in one of the build's secrets.")
    variable = options.get("env", "")
    if variable and not _VARIABLE.fullmatch(variable):
        raise RefusedError(f"RUN --mount=type=secret: env must be the name of a variable, not '{variable[:50]}'.")
    if name not in secrets and _flag(options, "required"):
        raise RefusedError(
            f"RUN --mount=type=secret,id={name[:50]} requires a secret that the build does not have: give it with "
            f'secrets=[modal.Secret.from_dict({{"{name[:50]}": …}})].'
        )
    target = ""
    if "target" in options or not variable:
        target = _target({"target": f"/run/secrets/{name}", **options}, workdir)
    return replace(mount, target=target, name=name, variable=variable)


def _target(options: Mapping[str, str], workdir: str) -> str:
    given = options.get("target", "")
    path = posixpath.normpath(posixpath.join("/", workdir, given)).replace("//", "/")
    if not given or path == "/" or "\n" in path or "\0" in path or len(path) > 4000:
        raise RefusedError(f"RUN --mount needs a target other than '/', not '{given[:100]}'.")
    if path.split("/")[1] in _OWN:
        raise RefusedError(f"RUN --mount: nothing can be mounted at {path[:100]}, which is the build's own.")
    return path


def _is_read_only(kind: str, options: Mapping[str, str]) -> bool:
    if _flag(options, "ro") or _flag(options, "readonly"):
        return True
    return kind in (BIND, SECRET) and not (_flag(options, "rw") or _flag(options, "readwrite"))


def _flag(options: Mapping[str, str], name: str) -> bool:
    value = options.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise RefusedError(f"RUN --mount: {name} is true or false, not '{value[:50]}'.")
    return value in ("true", "1")


def _owned(mount: RunMount, options: Mapping[str, str]) -> RunMount:
    numbers: dict[str, int] = {}
    for name, base, end in (("mode", 8, 0o10000), ("uid", 10, _ID), ("gid", 10, _ID)):
        text = options.get(name)
        if text is None:
            continue
        try:
            numbers[name] = int(text, base) if text.isascii() and text.isdigit() else end
        except ValueError:
            numbers[name] = end
        if numbers[name] >= end:
            raise RefusedError(
                f"RUN --mount: {name} is a number below {end:o}, not '{text[:50]}'."
                if base == 8
                else f"RUN --mount: {name} is a number below {end}, not '{text[:50]}'."
            )
    return replace(mount, mode=numbers.get("mode"), uid=numbers.get("uid", 0), gid=numbers.get("gid", 0))


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    size = int(match.group(1)) * _SCALE[match.group(2).lower()] if match is not None else 0
    if not 0 < size <= _MAX_TMPFS_BYTES:
        raise RefusedError(
            f"RUN --mount=type=tmpfs: size is a number of bytes such as 64m, at most {_MAX_TMPFS_BYTES >> 30}g, "
            f"not '{text[:50]}'."
        )
    return size
