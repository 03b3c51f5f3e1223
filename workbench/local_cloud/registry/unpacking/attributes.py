"""Owner, mode, time of change and extended attributes: read of an archive's member, and given to an entry."""

import errno
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from workbench.local_cloud.registry.unpacking.refusals import LayerRefusedError, shown

_SPECIAL_BITS = 0o7777
_PREFIX = "SCHILY.xattr."  # of an extended attribute's name in a pax header
_NAME_BYTES = 255  # of an extended attribute, as the kernel has it
_TIME = re.compile(r"([0-9]{1,10})(?:\.([0-9]{0,30}))?")  # seconds; no file has one of before 1970, or of year 2300
_REFUSALS = (errno.EINVAL, errno.EPERM, errno.ERANGE, errno.E2BIG)  # of the kernel for a value


@dataclass
class Attributes:
    """What an entry has beside its name and its content. By default, what nobody has told anything about has."""

    uid: int = 0
    gid: int = 0
    mode: int = 0o755
    mtime_ns: int = 0
    extended: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of_member(cls, member: tarfile.TarInfo) -> "Attributes":
        """Return what the archive says of an entry. Raises LayerRefusedError."""
        for number in (member.uid, member.gid):
            if not 0 <= number < 2**32 - 1:
                raise LayerRefusedError(
                    f"The entry {shown(member.name)} belongs to {number}, which is no user or group."
                )
        extended = {}
        for key, value in member.pax_headers.items():
            name = key.removeprefix(_PREFIX)
            if key.startswith(_PREFIX) and _is_kept(name):
                if not name.removeprefix("user.") or "\0" in name or len(_encoded(name)) > _NAME_BYTES:
                    raise LayerRefusedError(f"The entry {shown(member.name)} has an attribute without a proper name.")
                extended[name] = _encoded(value)
        return cls(member.uid, member.gid, member.mode & _SPECIAL_BITS, _nanoseconds(member), extended)

    @classmethod
    def of_directory(cls, descriptor: int) -> "Attributes":
        """Return what an open directory has."""
        found = os.fstat(descriptor)
        extended = {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor) if _is_kept(name)}
        return cls(found.st_uid, found.st_gid, found.st_mode & _SPECIAL_BITS, found.st_mtime_ns, extended)

    def give(self, descriptor: int, named: str) -> None:
        """Give them to an open entry, but for its time. The order matters: a change of owner takes from the rest."""
        with ids_of(named):
            os.fchown(descriptor, self.uid, self.gid)
        os.fchmod(descriptor, self.mode)
        for name, value in self.extended.items():
            try:
                os.setxattr(descriptor, name, value)
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                raise LayerRefusedError(
                    f"The entry {shown(named)} has an extended attribute {shown(name)} that cannot be set."
                ) from error

    @staticmethod
    def take_extended(descriptor: int) -> None:
        """Take those of an earlier member of the same name; the overlay's marks stay."""
        for name in os.listxattr(descriptor):
            if _is_kept(name):
                os.removexattr(descriptor, name)


@contextmanager
def ids_of(named: str) -> Iterator[None]:
    """Tell of an owner whom the namespace does not have in a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise LayerRefusedError(
            f"The entry {shown(named)} belongs to a user or group beyond those that sandboxes have (0 to 65535)."
        ) from error


def _is_kept(name: str) -> bool:
    """Whether an extended attribute comes into a layer: `trusted.*` and the overlay's own marks must not."""
    return name == "security.capability" or (name.startswith("user.") and not name.startswith("user.overlay."))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _nanoseconds(member: tarfile.TarInfo) -> int:
    """Return a time of change in ns, exact as it is written, unlike tarfile's number; 0 for one that cannot be."""
    text = member.pax_headers.get("mtime") or str(member.mtime)
    time = _TIME.fullmatch(text)
    return int(time[1]) * 10**9 + int((time[2] or "").ljust(9, "0")[:9]) if time else 0
