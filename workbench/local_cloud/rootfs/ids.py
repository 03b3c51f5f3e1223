"""The ids that a root file system's users have outside, and whether this machine can make such a namespace.

As root, an unused range of the host's ids stands for all users inside. For an ordinary user, root inside is that user
outside, as in every sandbox of theirs, and the other users inside are their subordinate ids.
"""

import os
import pwd
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workbench.local_cloud.rootfs import user_namespace

IDS_VARIABLE = "WORKBENCH_IMAGE_IDS"
COUNT = 65_536
_DEFAULT_FIRST = 300_000_000


class NoRangeError(Exception):
    """There are no ids for the users of a root file system; the message says why, and which command mends it."""


@dataclass(frozen=True)
class Ids:
    """Rows of (first id inside, first id outside, how many), for users and for groups."""

    uid: tuple[tuple[int, int, int], ...]
    gid: tuple[tuple[int, int, int], ...]

    @property
    def root(self) -> int:
        """The host's user id that root inside has."""
        return self.uid[0][1]

    def as_json(self) -> dict[str, Any]:
        """Return the rows as the launcher reads them, and where it asks for them to be mapped."""
        rows = {"uid": [list(row) for row in self.uid], "gid": [list(row) for row in self.gid]}
        return {**rows, "at": user_namespace.maps_at()}


@cache
def ids() -> Ids:
    """Return the ids of root file systems on this machine. Raises NoRangeError."""
    if os.geteuid() == 0:
        given = os.environ.get(IDS_VARIABLE, str(_DEFAULT_FIRST))
        if not re.fullmatch(r"\d{4,10}", given, re.ASCII) or not 1000 <= int(given) < 2**32 - COUNT:
            raise NoRangeError(
                f"{IDS_VARIABLE} is {given[:50]!r}: it must be the first of {COUNT} unused user ids, such as "
                f"{_DEFAULT_FIRST}."
            )
        rows = ((0, int(given), COUNT),)
        return Ids(rows, rows)
    if shutil.which("newuidmap") is None or shutil.which("newgidmap") is None:
        raise NoRangeError("newuidmap is not installed. Run: sudo apt-get install -y uidmap")
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # newuidmap refuses it, too
        raise NoRangeError(f"The user {os.getuid()} has no name, so there are no subordinate ids for it.") from None
    users, groups = (_subordinate(Path(f"/etc/sub{kind}"), name) for kind in ("uid", "gid"))
    if users is None or groups is None:
        raise NoRangeError(
            f"The user {name} has no {COUNT} subordinate ids. Run: sudo usermod --add-subuids 100000-165535 "
            f"--add-subgids 100000-165535 {name}"
        )
    return Ids(
        ((0, os.getuid(), 1), (1, users, COUNT - 1)),
        ((0, os.getgid(), 1), (1, groups, COUNT - 1)),
    )


def give_to_root_inside(directory: Path) -> None:
    """Make a directory of the host, and all that is in it, belong to root inside. Does nothing for an ordinary user."""
    if os.geteuid() != 0:
        return
    owner = ids().root
    for here, directories, names in os.walk(directory):
        for path in (Path(here), *(Path(here, name) for name in (*directories, *names))):
            os.chown(path, owner, owner, follow_symlinks=False)


def _subordinate(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        user, first, count = [*line.split(":"), "", "", ""][:3]
        if user in (name, str(os.getuid())) and first.isdigit() and count.isdigit() and int(count) >= COUNT - 1:
            return int(first)
    return None
