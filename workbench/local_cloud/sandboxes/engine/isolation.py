"""Bubblewrap's options and the seccomp filter that isolate a sandbox. Each has a test; no sandbox runs with fewer.

As root, the caller changes to an unprivileged user before bubblewrap starts, so that "uid 1000" inside is never root on
the host. Files that this user cannot read by their paths are passed as descriptors.
"""

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyseccomp

from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError, bubblewrap
from workbench.local_cloud.base.system_root import system_python
from workbench.local_cloud.sandboxes.engine.spec import HOME, SandboxSpec

SANDBOX_UID = 1000
_ETC = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nsandbox:x:{SANDBOX_UID}:{SANDBOX_UID}:sandbox:{HOME}:/bin/sh\n",
    "group": f"root:x:0:\nsandbox:x:{SANDBOX_UID}:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "resolv.conf": "",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_ETC_FROM_HOST = ("ld.so.cache", "alternatives", "ssl", "ca-certificates", "localtime", "mime.types", "python3")
# fmt: off
_DENIED = (
    # keyrings, which are not namespaced
    "add_key", "request_key", "keyctl",
    # large and often broken parts of the kernel
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    # mounts, old and new way
    "mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    # another root or other namespaces
    "pivot_root", "chroot", "unshare", "setns",
    # files by handle, past every path
    "open_by_handle_at", "name_to_handle_at",
    # other processes' memory
    "ptrace", "process_vm_readv", "process_vm_writev",
    # another kernel, or modules of this one
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
    # the machine as a whole, and its terminals
    "reboot", "swapon", "swapoff", "acct", "quotactl", "vhangup",
    # it can switch off address space randomisation
    "personality",
    # obsolete calls that no program needs
    "lookup_dcookie", "nfsservctl",
)
# fmt: on
# New mount, cgroup, UTS, IPC, user, process and network namespaces, and one for time.
_NEW_NAMESPACES = (
    0x00020000,
    0x02000000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
    0x00000080,
)  # fmt: skip
_UNNAMED = (457, 458)  # statmount, listmount: newer than the names that the library knows
SNAPSHOT_PROGRAM = "/__modal/.bin/modal-sandbox-fs-snapshot"
# The programs that the SDK runs for `Sandbox.filesystem`, and the paths at which it expects them.
FS_TOOLS = {
    "fs_tools.py": "/__modal/.bin/modal-sandbox-fs-tools",
    "fs_watch.py": "/__modal/.bin/modal-sandbox-fs-watch",
    "fs_snapshot.py": SNAPSHOT_PROGRAM,
}
_ALLOWED_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_LOCAL_BIN = Path("/usr/local/bin")
GUEST = Path(__file__).parents[1] / "guest"


def _local_programs(python: str, own: str, data: Callable[[bytes], str]) -> Iterator[str]:
    """Yield bubblewrap's arguments that add `python` and `python3` to /usr/local/bin, where Modal's images have them.

    They start the image's interpreter `own` if that is not empty. Else a name that the host has there is kept, and one
    that it has not leads to the system's interpreter `python`. `data` makes a descriptor that holds bytes and returns
    its number.
    """
    names = [name for name in ("python", "python3") if own or not os.path.lexists(_LOCAL_BIN / name)]
    if not names:
        return
    yield from ("--tmpfs", str(_LOCAL_BIN))
    for path in sorted(_LOCAL_BIN.iterdir()) if _LOCAL_BIN.is_dir() else ():
        if path.name in names:
            continue
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        else:
            yield from ("--ro-bind-try", str(path), str(path))
    for name in names:
        # Not a symbolic link: an interpreter started through one would not find its environment's packages.
        if own:
            script = f'#!/bin/sh\nexec {own} "$@"\n'
            yield from ("--perms", "0555", "--ro-bind-data", data(script.encode()), str(_LOCAL_BIN / name))
        else:
            yield from ("--symlink", python, str(_LOCAL_BIN / name))
    yield from ("--remount-ro", str(_LOCAL_BIN))


def seccomp_program(*, rooted: bool = False) -> bytes:
    """Build the seccomp filter, as a BPF program: dangerous calls, rare socket families and TIOCSTI fail with EPERM.

    With `rooted` it is for a sandbox whose programs are root of their own file system: they may change their root, and
    since bubblewrap cannot forbid them further namespaces there, this does.
    """
    program = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in _DENIED:
        if rooted and name == "chroot":
            continue
        try:
            program.add_rule(refuse, name)
        except (ValueError, RuntimeError, OSError):  # a call that this architecture does not have
            continue
    if rooted:
        program.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags are in memory; programs fall back
        for flag in _NEW_NAMESPACES:
            program.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    for number in _UNNAMED:
        program.add_rule(refuse, number)
    highest = 64
    for family in range(highest):
        if family not in _ALLOWED_FAMILIES:
            program.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
            program.add_rule(refuse, "socketpair", pyseccomp.Arg(0, pyseccomp.EQ, family))
    program.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.GE, highest))
    for request in (_TIOCSTI, _TIOCLINUX):
        program.add_rule(refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


@contextmanager
def command(
    spec: SandboxSpec, *, seccomp: bytes, info_fd: int, block_fd: int, control_fd: int
) -> Iterator[tuple[list[str], list[int]]]:
    """Give bubblewrap's argv and the descriptors that it must inherit, which are closed when the block ends.

    The descriptors that are passed in are bubblewrap's --info-fd and --block-fd, and the agent's end of the channel.
    Raises IsolationUnavailableError when bubblewrap or a Python below /usr is missing.
    """
    descriptors: list[int] = []

    def data(content: bytes) -> str:
        descriptor = os.memfd_create("workbench", os.MFD_CLOEXEC)
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        descriptors.append(descriptor)
        return str(descriptor)

    python = system_python()
    if python is None:
        raise IsolationUnavailableError("There is no python3 below /usr. Run: sudo apt-get install -y python3")
    argv = [bubblewrap(), "--unshare-all", "--unshare-user", "--disable-userns"]
    argv += ["--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID), "--hostname", "sandbox", "--as-pid-1"]
    argv += ["--new-session", "--cap-drop", "ALL", "--clearenv", "--info-fd", str(info_fd)]
    argv += ["--block-fd", str(block_fd)]
    argv += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        path = Path("/") / name
        if path.is_symlink():
            argv += ["--symlink", str(path.readlink()), f"/{name}"]
        elif path.is_dir():
            argv += ["--ro-bind", f"/{name}", f"/{name}"]
    argv += _local_programs(python, spec.python, data)
    for name, text in _ETC.items():
        argv += ["--perms", "0644", "--ro-bind-data", data(text.encode()), f"/etc/{name}"]
    for name in _ETC_FROM_HOST:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    argv += ["--seccomp", data(seccomp), "--proc", "/proc", "--dev", "/dev"]
    for target in ("/tmp", "/dev/shm", HOME, *spec.directories):  # noqa: S108  # paths inside the sandbox
        argv += ["--perms", "1777", "--size", str(spec.limits.tmpfs_bytes), "--tmpfs", target]
    agent = (GUEST / "agent.py").read_bytes()
    argv += ["--perms", "0444", "--ro-bind-data", data(agent), "/run/agent.py"]
    programs = {"sync.py": os.path.realpath("/usr/bin/sync"), **FS_TOOLS}
    for script, target in programs.items():
        program = f"#!{python} -ISXutf8\n".encode() + (GUEST / script).read_bytes()
        argv += ["--perms", "0555", "--ro-bind-data", data(program), target]
    for mount in spec.mounts:
        argv += ["--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.target]
    argv += ["--remount-ro", "/", "--chdir", "/", python, "-I", "-S", "/run/agent.py"]
    argv += [str(control_fd), str(spec.limits.processes), str(spec.limits.workspace_bytes), spec.workdir]
    try:
        yield argv, descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
