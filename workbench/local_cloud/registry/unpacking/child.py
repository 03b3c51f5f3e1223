"""Unpacks a layer in a child process, and tells its parent in one report how that ended."""

import json
import os
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from workbench.local_cloud.registry.unpacking.archive import Archive, damage_told
from workbench.local_cloud.registry.unpacking.below import Below
from workbench.local_cloud.registry.unpacking.layer import Layer
from workbench.local_cloud.registry.unpacking.limits import Limits
from workbench.local_cloud.registry.unpacking.members import read_members
from workbench.local_cloud.registry.unpacking.names import DIRECTORY
from workbench.local_cloud.registry.unpacking.refusals import LayerRefusedError, UnpackFailedError


@dataclass(frozen=True)
class Unpacked:
    """What came of a layer."""

    entries: int
    archive_bytes: int
    skipped_devices: int


def unpack(blob: int, diff_id: str, root: int, *, below: int | None = None, limits: Limits | None = None) -> Unpacked:
    """Unpack the archive in the open file `blob` into the empty directory `root` (a descriptor), and check `diff_id`.

    The compression (gzip, zstd, none) is told from the content. `below` is a descriptor of the merged layers below: a
    directory that the archive does not list is made with the attributes that it has there, and is looked for behind the
    links that stand there. Without it, such directories belong to root and have mode 0755.
    Raises LayerRefusedError for what the archive is, UnpackFailedError for what this machine cannot do. In both cases
    the directory is left half full: remove it.
    """
    limits = limits or Limits()
    try:
        with damage_told(), closing(Layer(root, Below(below), limits)) as layer:
            archive = Archive(blob, limits)
            for tar, member in read_members(archive):
                layer.add(tar, member)
            archive.finish(diff_id)
            layer.finish()
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else "an input or output error"
        raise UnpackFailedError(f"The layer could not be unpacked: {what}.", error.errno or 0) from error
    return Unpacked(layer.entries, archive.position, layer.skipped_devices)


def unpack_in_child(
    blob: int, diff_id: str, *, report: int, below: int | None = None, limits: Limits | None = None
) -> NoReturn:
    """Unpack into the working directory, write a report for `read_report` to a descriptor, and end this process.

    From here on this process imports nothing: below the chroot, Python's modules would be those of the layer.
    """
    sys.meta_path[:] = [_NoImports]
    code = 1
    try:
        root = os.open(".", DIRECTORY)
        answer: dict[str, Any] = {"unpacked": asdict(unpack(blob, diff_id, root, below=below, limits=limits))}
        code = 0
    except LayerRefusedError as error:
        answer = {"refused": str(error)}
    except UnpackFailedError as error:
        answer = {"failed": str(error), "code": error.code}
    except BaseException as error:  # noqa: BLE001 - the process ends here, and its owner must learn of everything
        answer = {"failed": f"The layer could not be unpacked ({type(error).__name__}).", "code": 0}
    try:
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(report, data) :]
    finally:
        os._exit(code)


def read_report(data: bytes) -> Unpacked:
    """Return what `unpack_in_child` has told. Raises its LayerRefusedError or UnpackFailedError.

    A report that is cut off or missing means that the child was killed, which is an UnpackFailedError as well.
    """
    try:
        answer = json.loads(data)
        if "refused" in answer:
            raise LayerRefusedError(str(answer["refused"]))
        if "failed" in answer:
            raise UnpackFailedError(str(answer["failed"]), int(answer["code"]))
        return Unpacked(**answer["unpacked"])
    except (ValueError, KeyError, TypeError):
        raise UnpackFailedError("The process that unpacked the layer ended before it was done.") from None


class _NoImports:
    """Finds no module. (Without any finder, Python warns of that, whose text it would have to import.)"""

    @staticmethod
    def find_spec(fullname: str, path: object, target: object = None) -> None:
        raise ImportError(f"{fullname} is not imported below the chroot of a layer")
