"""Why sandboxes do not start on this machine, and which command changes that.

The one place with these texts: the cloud refuses to start with them, and `workbench doctor` shows them. Causes are read
from the kernel's settings where there is one, because bubblewrap prints the same error for several causes.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.local_cloud.sandboxes.engine.host_users import LOWEST_UID, UIDS_VARIABLE, uid_range

MORE = "(`workbench doctor` tells more)"  # the end of every refusal to start
BUBBLEWRAP_NEEDED = (0, 8)  # the first version with --disable-userns
_CONTAINER_MARKS = (".dockerenv", "run/.containerenv")
_CONTAINER_CGROUP = re.compile(r"docker|kubepods|containerd|libpod|lxc")
_REFUSED = re.compile(r"bwrap:.*(uid map|namespace|permission denied|not permitted)", re.IGNORECASE | re.DOTALL)
_TOO_OLD = re.compile(r"unknown option", re.IGNORECASE)
_UNREACHABLE = re.compile(r"\[Errno 13\]")  # the start of bubblewrap itself failed with EACCES


@dataclass(frozen=True)
class Diagnosis:
    """One cause and what to do about it, each a sentence without a full stop, so that commands can be copied."""

    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.reason}. {self.fix}"


def explain(printed: str) -> str:
    """Return the reason and the fix for a failed start, from what it printed."""
    return str(diagnose(printed))


def diagnose(printed: str, *, root: Path = Path("/")) -> Diagnosis:
    """Find the cause of a failed start, from what it printed; `root` is where /proc, /run and /.dockerenv are."""
    printed = " ".join(printed.split())
    if _TOO_OLD.search(printed):
        return too_old(printed)
    if _UNREACHABLE.match(printed):
        return Diagnosis(
            f"The unprivileged users that sandboxes run as may not run bubblewrap: {printed}",
            "Install it where every user reaches it: sudo apt-get install -y bubblewrap",
        )
    if os.geteuid() == 0 and (users_missing := _without_users(root)) is not None:
        return users_missing
    if not _REFUSED.search(printed):
        return Diagnosis(f"Sandboxes do not start here: {printed}", "The log of the kernel may say more: sudo dmesg")
    causes = list(_causes(root))
    if not causes:
        causes = [
            Diagnosis(
                "This machine does not allow unprivileged user namespaces",
                "The log of the kernel names the security policy that forbids them: sudo dmesg",
            )
        ]
    reason = "; ".join([causes[0].reason, *(f"{cause.reason[0].lower()}{cause.reason[1:]}" for cause in causes[1:])])
    return Diagnosis(f"{reason} ({printed})", "; ".join(cause.fix for cause in causes))


def too_old(found: str) -> Diagnosis:
    """Return the diagnosis of an old bubblewrap; `found` is its version, or what it printed."""
    needed = ".".join(map(str, BUBBLEWRAP_NEEDED))
    return Diagnosis(
        f"This bubblewrap is too old ({found}): --disable-userns needs {needed} or newer",
        "On Debian 12, Ubuntu 24.04 and newer run: sudo apt-get install -y bubblewrap; "
        "Debian 11 and Ubuntu 22.04 do not have it, run there: conda install -c conda-forge bubblewrap",
    )


def _without_users(root: Path) -> Diagnosis | None:
    """Return the diagnosis of root in a user namespace without the users that sandboxes run as, None if it has them."""
    first, last = uid_range()
    maps = [_mapped(root / "proc/self" / name) for name in ("uid_map", "gid_map")]
    if any(not found for found in maps):  # the maps cannot be read
        return None
    try:
        groups = (root / "proc/self/setgroups").read_text(encoding="utf-8").strip() != "deny"
    except OSError:
        groups = True
    common = [range(max(a.start, b.start), min(a.stop, b.stop)) for a in maps[0] for b in maps[1]]
    if groups and any(ids.start <= first and last < ids.stop for ids in common):
        return None
    largest = max(common, key=len)
    usable = range(max(largest.start, LOWEST_UID), largest.stop)
    if groups and usable:
        return Diagnosis(
            f"This user namespace has no users {first} to {last}, as which sandboxes run: its ids are "
            f"{largest.start} to {largest.stop - 1}",
            f"Name ids that it has: export {UIDS_VARIABLE}={usable.start}-{usable.stop - 1}",
        )
    count = "a single id" if len(largest) == 1 else f"{len(largest)} ids"
    return Diagnosis(
        f"This is root in a user namespace with {count}{'' if groups else ' that may not change its groups'}, and "
        "sandboxes run as users of their own",
        "Run it outside of that namespace, as the ordinary user that you are there: it needs no root",
    )


def _mapped(path: Path) -> list[range]:
    """Return the ranges of ids in a user namespace's map, as they are inside; empty when it cannot be read."""
    try:
        found = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        return [range(int(start), int(start) + int(count)) for start, _, count in found]
    except (OSError, ValueError):
        return []


def _causes(root: Path) -> Iterator[Diagnosis]:
    if _sysctl(root, "kernel.apparmor_restrict_unprivileged_userns") == 1:
        yield Diagnosis(
            "AppArmor keeps unprivileged programs from using user namespaces, as Ubuntu 24.04 has it",
            "Load the profile bwrap-userns-restrict of the package apparmor-profiles, or run: "
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    if _sysctl(root, "kernel.unprivileged_userns_clone") == 0:
        yield Diagnosis(
            "The kernel's setting keeps unprivileged programs from making user namespaces",
            "Run: sudo sysctl -w kernel.unprivileged_userns_clone=1",
        )
    if _sysctl(root, "user.max_user_namespaces") == 0:
        yield Diagnosis(
            "The kernel's setting allows no user namespaces at all",
            "Run: sudo sysctl -w user.max_user_namespaces=15000",
        )
    if _is_container(root):
        yield Diagnosis(
            "This container keeps programs from making namespaces",
            # Without the last option /proc is masked, and the kernel refuses to mount a new one that shows more.
            "Start the container with --privileged, or with: --security-opt seccomp=unconfined "
            "--security-opt apparmor=unconfined --security-opt systempaths=unconfined",
        )


def _sysctl(root: Path, name: str) -> int | None:
    try:
        return int((root / "proc/sys" / name.replace(".", "/")).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _is_container(root: Path) -> bool:
    if any((root / mark).exists() for mark in _CONTAINER_MARKS):
        return True
    try:
        return _CONTAINER_CGROUP.search((root / "proc/1/cgroup").read_text(encoding="utf-8")) is not None
    except OSError:
        return False
