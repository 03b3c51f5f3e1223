"""Where an image's files are in its directory on the host, and at which paths containers and sandboxes see them.

An image's directory holds `venv` (its Python environment), `npm` (its global Node packages), `root` (all other files)
and `python` (a copy of its Python, unless that is below /usr). Each of these parts holds its files by their absolute
paths inside, so that it can be a layer of a root file system. Where guests have this machine's own system instead, the
files are bound over it, read-only. The environments are below `IMAGE_ROOT` in builds and in guests.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from workbench.local_cloud.images.dockerfile import NeedsRootError, RefusedError

IMAGE_ROOT = "/opt/image"
VENV = f"{IMAGE_ROOT}/venv"
PYTHON = f"{VENV}/bin/python"
NPM_PREFIX = f"{IMAGE_ROOT}/npm"
SYSTEM_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
IMAGE_PATH = f"{VENV}/bin:{NPM_PREFIX}/bin:{SYSTEM_PATH}"
TREE = "root"
COPIED_PYTHON = "python"
ENVIRONMENTS = {"venv": VENV, "npm": NPM_PREFIX}
PARTS = (COPIED_PYTHON, *ENVIRONMENTS, TREE)  # the lowest first: a later one hides the same file of another
LOCAL_PROGRAMS = ("/usr/local/bin/python", "/usr/local/bin/python3")  # which start the environment's Python
MAX_PATH_CHARS = 1000

# Directories that every guest gets from the host or from the kernel: an image cannot have files there.
_SYSTEM = frozenset(("proc", "dev", "sys", "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "run", "boot"))
# fmt: off
_ETC = frozenset((
    "alternatives", "ca-certificates", "group", "hosts", "ld.so.cache", "localtime", "mime.types", "nsswitch.conf",
    "passwd", "python3", "resolv.conf", "ssl",
))
# fmt: on
# Directories that have files of the guest, too: only the image's entries in them are bound, not the directories.
_SHARED = frozenset(("/", "/root", "/etc", "/etc/ssl", "/opt", "/tmp", "/var", "/var/tmp", "/home", "/mnt", "/srv"))  # noqa: S108  # paths inside the guest


def target(text: str, *, workdir: str, what: str = "A file") -> PurePosixPath:
    """Return the absolute path in the image of `text`, which may be relative to `workdir`.

    Raises RefusedError for a bad path, and NeedsRootError for a long one, one with `..`, and one that belongs to the
    system; `what` begins that last message.
    """
    if not text or "\0" in text or "\n" in text:
        raise RefusedError(f"A path must have a character, and no line feeds and NUL, unlike {text[:50]!r}.")
    if len(text) > MAX_PATH_CHARS:
        raise NeedsRootError(f"A path of more than {MAX_PATH_CHARS} characters: {text[:50]!r}….")
    path = PurePosixPath("/") / workdir / text
    if ".." in path.parts:
        raise NeedsRootError(f"The path '{text[:200]}' must not contain '..': write it without.")
    path = PurePosixPath("/", *path.parts[1:])  # PurePosixPath keeps two slashes at the front, as POSIX allows
    if is_system(path) or path.is_relative_to(IMAGE_ROOT):
        raise NeedsRootError(f"{what} cannot be at {path}, which belongs to the local cloud: use a path below /opt.")
    return path


def is_system(path: PurePosixPath) -> bool:
    """Whether an absolute path is in a directory that every guest gets from the host or from the kernel."""
    top, below = (*path.parts[1:3], "", "")[:2]
    return top in _SYSTEM or (top == "etc" and below in _ETC)


def binds(directory: Path, *, prefix: str = "", split: Iterable[str] = ()) -> Iterator[tuple[Path, str]]:
    """Yield what to bind read-only, as (path on the host, path inside), outer paths before inner ones.

    `prefix` is the path inside of the image's copied Python, empty without one. `split` are paths inside at which
    something else will be mounted: the directories above them are not bound as a whole, only their entries, because
    nothing can be mounted into a read-only directory.
    """
    for name, path in ENVIRONMENTS.items():
        yield below(directory / name, path), path
    if prefix:
        yield below(directory / COPIED_PYTHON, prefix), prefix
    yield from tree_binds(directory / TREE, split=split)


def below(directory: Path, path: str) -> Path:
    """Return where a directory that holds files by their absolute paths has `path`."""
    return directory / path.lstrip("/")


def tree_binds(tree: Path, *, split: Iterable[str] = ()) -> Iterator[tuple[Path, str]]:
    """Yield what to bind of `tree`, which holds files by their absolute paths; `split` and pairs are as for `binds`."""
    own = set(_SHARED)
    for path in split:
        own.update((path, *(str(parent) for parent in PurePosixPath(path).parents)))
    yield from _below(tree, "", own)


def common_directories(tree: Path, others: Iterable[Path]) -> list[str]:
    """Return the directories that a tree and another one have, as paths inside: binding one must not hide the other."""
    known = list(others)
    inside = [path.relative_to(tree) for path in tree.rglob("*") if path.is_dir()]
    return [f"/{path}" for path in inside if any((other / path).is_dir() for other in known)]


def _below(directory: Path, inside: str, split: set[str]) -> Iterator[tuple[Path, str]]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        path = f"{inside}/{entry.name}"
        if path in split and entry.is_dir(follow_symlinks=False):
            yield from _below(directory / entry.name, path, split)
        else:
            yield directory / entry.name, path
