"""Where an image's files are: below its directory on the host, and at which paths containers and sandboxes see them.

An image's directory holds `venv` (its Python environment), `npm` (its global Node packages), `root` (its files by their
absolute paths) and, when no Python below /usr does, `python`, seen where it was copied from. The directory is seen at
`IMAGE_ROOT`, in builds and in what runs, so that paths that programs have written down stay true. `root` is laid over
the guest's own root. All of it is read-only there.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from workbench.local_cloud.images.dockerfile import RefusedError

IMAGE_ROOT = "/opt/image"
VENV = f"{IMAGE_ROOT}/venv"
PYTHON = f"{VENV}/bin/python"
NPM_PREFIX = f"{IMAGE_ROOT}/npm"
SYSTEM_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
IMAGE_PATH = f"{VENV}/bin:{NPM_PREFIX}/bin:{SYSTEM_PATH}"
TREE = "root"
COPIED_PYTHON = "python"
MAX_PATH_CHARS = 1000

# What every guest gets from the host or from the kernel: nothing can be laid there.
_SYSTEM = frozenset(("proc", "dev", "sys", "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "run", "boot"))
# fmt: off
_ETC = frozenset((
    "alternatives", "ca-certificates", "group", "hosts", "ld.so.cache", "localtime", "mime.types", "nsswitch.conf",
    "passwd", "python3", "resolv.conf", "ssl",
))
# fmt: on
# Directories that the image shares with the guest's own files: only what is in them is laid.
_SHARED = frozenset(("/", "/root", "/etc", "/etc/ssl", "/opt", "/tmp", "/var", "/var/tmp", "/home", "/mnt", "/srv"))  # noqa: S108  # paths inside the guest


def target(text: str, *, workdir: str, what: str = "A file") -> PurePosixPath:
    """An absolute path inside the image, from one relative to its WORKDIR. Raises RefusedError."""
    if not text or "\0" in text or "\n" in text or len(text) > MAX_PATH_CHARS:
        raise RefusedError(f"A path must have 1 to {MAX_PATH_CHARS} characters, on one line.")
    path = PurePosixPath("/") / workdir / text
    if ".." in path.parts:
        raise RefusedError(f"'{text}' holds '..': give the path that is meant.")
    path = PurePosixPath("/", *path.parts[1:])  # two slashes at the front would be another root
    if is_system(path) or path.is_relative_to(IMAGE_ROOT):
        raise RefusedError(f"{what} cannot be at {path} on the local cloud, whose own it is: take a path below /opt.")
    return path


def is_system(path: PurePosixPath) -> bool:
    """Whether an absolute path inside lies in what every guest gets from the host or from the kernel."""
    top, below = (*path.parts[1:3], "", "")[:2]
    return top in _SYSTEM or (top == "etc" and below in _ETC)


def binds(directory: Path, *, prefix: str = "", split: Iterable[str] = ()) -> Iterator[tuple[Path, str]]:
    """What to bind read-only, as (path on the host, path inside), the outer before the inner.

    `prefix` is where the image's own Python is seen, empty when it has none. `split` names paths inside at which, or
    below which, something else will be put: directories on the way to them are not bound themselves, since nothing
    could be put into them any more.
    """
    yield directory, IMAGE_ROOT
    if prefix:
        yield directory / COPIED_PYTHON, prefix
    yield from tree_binds(directory / TREE, split=split)


def tree_binds(tree: Path, *, split: Iterable[str] = ()) -> Iterator[tuple[Path, str]]:
    """What to bind of files that lie below `tree` by their absolute paths; `split` is as for `binds`."""
    own = set(_SHARED)
    for path in split:
        own.update((path, *(str(parent) for parent in PurePosixPath(path).parents)))
    yield from _below(tree, "", own)


def common_directories(tree: Path, other: Path) -> list[str]:
    """The directories that two trees both have, as paths inside: neither may hide the other's."""
    return [
        f"/{inside}"
        for path in tree.rglob("*")
        if path.is_dir() and (other / (inside := path.relative_to(tree).as_posix())).is_dir()
    ]


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
