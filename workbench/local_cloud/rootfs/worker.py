"""Makes the files of layers, as a process of its own that is root in their user namespace and nobody outside.

`python -m workbench.local_cloud.rootfs.worker FD` reads an order as JSON from a descriptor, enters the namespace, and
does one thing: copies the machine's base or an image's files, carries out a COPY, or removes a tree. It prints
one line of JSON for what it has done, or a sentence on stderr and ends with 1.

All paths of the order are relative to the store's directory, which is entered first.
"""

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from workbench.local_cloud.base.guest_directories import remove_at_once
from workbench.local_cloud.registry import unpacking
from workbench.local_cloud.registry.unpacking import LayerRefusedError, UnpackFailedError
from workbench.local_cloud.rootfs import joining, launcher
from workbench.local_cloud.rootfs.copying import CopyRefusedError, Tree, copy_files, owner_of

_TOP_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
_PRIVATE = {"/etc/shadow": (0o640, 42), "/etc/gshadow": (0o640, 42)}
_MODES = {"/root": 0o700, "/tmp": 0o1777, "/var/tmp": 0o1777, "/run": 0o755}  # noqa: S108  # inside


def main() -> int:
    """Read the order, enter the namespace, do the work. Returns the exit code."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        order: dict[str, Any] = json.loads(file.read())
    work: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "machine base": _machine_base,
        "files": _files,
        "links": _links,
        "copy": _copy,
        "directory": _directory,
        "put": _put,
        "unmake": _unmake,
        "copy of an upper": _copy_of_an_upper,
        "remove": _remove,
        "rename": _rename,
        "unpack": _unpack,
        "try": _try,
        "measure": _measure,
        "mount into": joining.mount_into,
        "unmount from": joining.unmount_from,
    }
    try:
        os.umask(0o022)
        os.chdir(order["store"])
        for name, path in order.get("open", {}).items():
            order[name] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if "context" in order:
            order["context"] = launcher.detach(order["context"], as_root=order["owner"] is not None)
        if "pidfd" in order:
            joining.join(order)
        else:
            launcher.enter(order["ids"], owner=order["owner"])
        sys.stdout.write(json.dumps(work[order["do"]](order)))
    except (launcher.LaunchError, CopyRefusedError, LayerRefusedError, UnpackFailedError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}: {error.filename or order['do']}\n")
        return 1
    return 0


def _machine_base(order: dict[str, Any]) -> dict[str, Any]:
    """Copy files of this machine's packages into an empty directory; what not every user may read is left out."""
    target = order["target"]
    count = 0
    for name in _TOP_LINKS:
        if os.path.islink(f"/{name}"):
            os.makedirs(os.path.realpath(f"/{name}").replace("/", f"{target}/", 1), exist_ok=True)
            os.symlink(os.readlink(f"/{name}"), f"{target}/{name}")
    links = dict(order["links"])
    for path in [*order["files"], *links]:
        count += _copy_one(path, f"{target}{path}", links.get(path), order["owners"].get(path, (0, 0)))
    for path in ("/root", "/tmp", "/var/tmp", "/run", "/proc", "/sys", "/dev", "/etc", "/home", "/mnt", "/opt", "/srv"):  # noqa: S108
        os.makedirs(f"{target}{path}", exist_ok=True)
    for path, link in order["made_links"]:
        os.makedirs(os.path.dirname(f"{target}{path}"), exist_ok=True)
        os.symlink(link, f"{target}{path}")
    for path, encoded in order["data"].items():
        place = Path(f"{target}{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        content = base64.b64decode(encoded)
        place.write_bytes(content)
        if content.startswith(b"#!"):
            place.chmod(0o755)
    for path, (mode, group) in _PRIVATE.items():
        os.chown(f"{target}{path}", 0, group)
        os.chmod(f"{target}{path}", mode)
    for path, mode in _MODES.items():
        os.chmod(f"{target}{path}", mode)
    for tree in order["trees"]:
        for directory, _, names in os.walk(tree):
            os.makedirs(f"{target}{directory}", exist_ok=True)
            for name in names:
                count += _copy_one(f"{directory}/{name}", f"{target}{directory}/{name}")
    os.chmod(target, 0o755)  # noqa: S103  # a root directory
    return {"files": count}


def _copy_one(source: str, target: str, link: str | None = None, owner: tuple[int, int] = (0, 0)) -> int:
    """Copy one file, link or directory with its mode and times; 0 if it is there, or cannot be read."""
    if os.path.lexists(target):
        return 0
    try:
        status = os.lstat(source)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(link or os.readlink(source), target)
        elif stat.S_ISDIR(status.st_mode):
            os.mkdir(target)
        elif stat.S_ISREG(status.st_mode):
            if not status.st_mode & stat.S_IROTH:
                return 0
            shutil.copyfile(source, target)
            _compiled(source, target)
        else:
            return 0
        if tuple(owner) != (0, 0):
            os.chown(target, *owner, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(target, stat.S_IMODE(status.st_mode))
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
    except (FileNotFoundError, PermissionError):
        return 0
    return 1


def _compiled(source: str, target: str) -> None:
    """Copy the compiled forms of a Python module, which packages do not list, but make."""
    if not source.endswith(".py"):
        return
    directory, name = os.path.split(source)
    cache = Path(directory, "__pycache__")
    for path in cache.glob(f"{name[:-3]}.cpython-*.pyc") if cache.is_dir() else ():
        place = Path(os.path.dirname(target), "__pycache__", path.name)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
        times = path.stat()
        os.utime(place, ns=(times.st_mtime_ns, times.st_mtime_ns))


def _files(order: dict[str, Any]) -> dict[str, Any]:
    """Copy directories that are open, each to a path of a new layer, with modes, times and links; all owned by root."""
    target = Path(order["target"])
    count = 0
    for name, inside in order["into"].items():
        for directory, directories, names, descriptor in os.fwalk(".", dir_fd=order[name]):
            here = target / inside.lstrip("/") / directory
            here.mkdir(parents=True, exist_ok=True)
            for entry in [*names, *(other for other in directories)]:
                status = os.stat(entry, dir_fd=descriptor, follow_symlinks=False)
                place = here / entry
                if stat.S_ISLNK(status.st_mode):
                    place.symlink_to(os.readlink(entry, dir_fd=descriptor))
                    count += 1
                elif stat.S_ISREG(status.st_mode):
                    with (
                        open(os.open(entry, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=descriptor), "rb") as source,
                        place.open("xb") as copy,
                    ):
                        shutil.copyfileobj(source, copy, 1 << 20)
                    place.chmod(stat.S_IMODE(status.st_mode) & 0o755 | 0o444)
                    os.utime(place, ns=(status.st_mtime_ns, status.st_mtime_ns))
                    count += 1
    for made in _directories(target):
        made.chmod(0o755)
    return {"files": count}


def _links(order: dict[str, Any]) -> dict[str, Any]:
    """Fill an empty directory with the tree of another: its files are links, its directories are copies.

    Both are open: a link can be made within one mount only, and those of the namespace are others.
    """
    source, target = (f"/proc/self/fd/{order[name]}/." for name in ("source", "target"))
    done = subprocess.run(
        ["/usr/bin/cp", "-al", "--no-target-directory", "--", source, target],
        pass_fds=[order["source"], order["target"]],
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        complaint = next(iter(done.stderr.splitlines()), "")
        raise launcher.LaunchError(f"files cannot be linked: {complaint[:300]}")
    return {}


def _directories(root: Path) -> Iterator[Path]:
    for directory, _, _ in os.walk(root):
        yield Path(directory)


def _copy(order: dict[str, Any]) -> dict[str, Any]:
    """Copy files of a build context, or of the layers `from`, the topmost first."""
    source = _opened(order["from"]) if "from" in order else None
    launcher.merge(order["lower"], order["upper"], order["work"])
    if source is not None:
        tree = Tree.of(Path(f"/proc/self/fd/{source}"), keeps=True)
    else:
        tree = Tree.of(Path(launcher.attach(order["context"], 0)), keeps=False)
    return {"files": copy_files(tree, Tree.of(Path(launcher.MERGED), keeps=True), order["step"])}


def _opened(layers: list[str]) -> int:
    """Open the merged tree of layers, which stays reachable when something else is mounted in its place."""
    if len(layers) > 1:
        launcher.merge(layers, "", "")
    return os.open(launcher.MERGED if len(layers) > 1 else layers[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _directory(order: dict[str, Any]) -> dict[str, Any]:
    """Make a directory of the merged root, and the missing ones above it."""
    launcher.merge(order["lower"], order["upper"], order["work"])
    places = launcher.Places(launcher.MERGED)
    missing = places.find(order["path"]) is None
    made = launcher.MERGED + places.make(order["path"], "directory")
    if missing and order["owner_name"]:
        os.chown(made, *owner_of(order["owner_name"], Tree.of(Path(launcher.MERGED), keeps=True)))
    if missing and order.get("mode") is not None:
        os.chmod(made, order["mode"])
    return {}


def _put(order: dict[str, Any]) -> dict[str, Any]:
    """Write files into the merged root; they come one after the other from a descriptor."""
    launcher.merge(order["lower"], order["upper"], order["work"])
    places = launcher.Places(launcher.MERGED)
    with os.fdopen(order["contents"], "rb") as contents:
        for path, size in order["sizes"].items():
            place = launcher.MERGED + places.make(path, "program")
            with open(place, "wb") as file:
                file.write(contents.read(size))
            os.chmod(place, order["mode"])
    return {}


def _unmake(order: dict[str, Any]) -> dict[str, Any]:
    """Remove what was made on a root for mounts and is still empty, from what was written to that root.

    Programs have run on it since: no link of theirs is followed, and what is no such file or directory any more stays.
    """
    top = os.open(order["target"], launcher.OPEN_DIRECTORY)
    count = 0
    for path in reversed(order["paths"]):
        *above, name = path.split("/")
        with suppress(OSError), ExitStack() as stack:
            here = top
            for part in above:
                here = os.open(part, launcher.OPEN_DIRECTORY, dir_fd=here)
                stack.callback(os.close, here)
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(name, dir_fd=here)
                count += 1
            elif stat.S_ISREG(status.st_mode) and not status.st_size:
                os.unlink(name, dir_fd=here)
                count += 1
    return {"removed": count}


def _copy_of_an_upper(order: dict[str, Any]) -> dict[str, Any]:
    """Copy what was written to a root, with the marks of what was removed, links, holes, owners and modes.

    A file that a program changes or removes meanwhile is in the copy as far as it was there. Programs may also put a
    link in the place of a directory that is about to be read, so that the copying sees nothing else of this machine
    than the programs that it needs. With `lower` in place of `source`, all of a root is copied: what its layers show.
    """
    if "lower" in order:
        launcher.merge(order["lower"], "", "")
        order["source"] = f"/proc/self/fd/{os.open(launcher.MERGED, os.O_PATH | os.O_DIRECTORY)}"  # hidden from here on
    launcher.call("mount", launcher.mount(b"none", launcher.PLACE, b"tmpfs", launcher.MS_NODEV, b"size=1m,mode=0755"))
    for name in ("source", "target"):
        _show(order[name], name)
    _show("/usr", "usr")
    for name in _TOP_LINKS:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{launcher.PLACE}/{name}")
        elif os.path.isdir(f"/{name}"):
            _show(f"/{name}", name)
    done = subprocess.run(
        ["/usr/bin/cp", "-a", "--reflink=auto", "--no-target-directory", "--", "/source", "/target"],
        preexec_fn=lambda: os.chroot(launcher.PLACE),
        cwd="/",
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if complaint := copy_complaint(done):
        raise launcher.LaunchError(f"what the sandbox has written cannot be copied: {complaint}")
    return {}


def copy_complaint(done: "subprocess.CompletedProcess[str]") -> str:
    """Return why the copy that `cp` has made is not whole, but for files that were gone meanwhile; else empty."""
    if done.returncode < 0:
        return f"cp was ended by signal {-done.returncode}"
    if not done.returncode:
        return ""
    lines = done.stderr.splitlines() or [f"cp ended with exit code {done.returncode}"]
    return next((line[:300] for line in lines if "No such file or directory" not in line), "")


def _show(path: str, name: str) -> None:
    """Mount a directory at a name of the place."""
    place = f"{launcher.PLACE}/{name}"
    os.mkdir(place)
    launcher.call("mount", launcher.mount(os.fsencode(path), place, None, launcher.MS_BIND | launcher.MS_REC, None))


def _try(order: dict[str, Any]) -> dict[str, Any]:
    """Mount an overlay with an upper on another file system than the machine's own, and write to it."""
    (beside,) = order["lower"]
    for name in ("lower", "upper", "work"):
        os.mkdir(f"{beside}/{name}")
    launcher.merge([f"{beside}/lower"], f"{beside}/upper", f"{beside}/work")
    os.mkdir(f"{launcher.MERGED}/made")
    os.chown(f"{launcher.MERGED}/made", 1000, 1000)
    return {}


def _measure(order: dict[str, Any]) -> dict[str, Any]:
    """Measure trees that are open, each inode once, without following links."""
    enough_bytes, enough_entries = order["enough"]
    size = entries = 0
    seen: set[tuple[int, int]] = set()
    for name in order["open"]:
        for _, directories, names, descriptor in os.fwalk(".", dir_fd=order[name], onerror=_unless_gone):
            for entry in (*directories, *names):
                with suppress(FileNotFoundError):
                    status = os.stat(entry, dir_fd=descriptor, follow_symlinks=False)
                    entries += 1
                    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                        if (status.st_dev, status.st_ino) in seen:
                            continue
                        seen.add((status.st_dev, status.st_ino))
                    size += status.st_blocks * 512
            if size > enough_bytes or entries > enough_entries:
                break
    return {"bytes": size, "entries": entries}


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _unpack(order: dict[str, Any]) -> dict[str, Any]:
    """Unpack an archive into an empty directory, in a child that is confined to it."""
    below = _opened(order["lower"]) if order["lower"] else None
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.chroot(order["target"])
        os.chdir("/")
        unpacking.unpack_in_child(order["blob"], order["diff_id"], report=write, below=below)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        report = file.read()
    os.waitpid(child, 0)
    return vars(unpacking.read_report(report))


def _remove(order: dict[str, Any]) -> dict[str, Any]:
    for path in order["paths"]:
        remove_at_once(Path(path), Path(order["aside"]))
    return {}


def _rename(order: dict[str, Any]) -> dict[str, Any]:
    os.rename(order["source"], order["target"])
    return {}


if __name__ == "__main__":
    sys.exit(main())
