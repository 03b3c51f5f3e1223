"""The command that starts a sandbox whose root file system is its image's: the launcher, and bubblewrap in it.

The image needs nothing of ours. The agent and the SDK's programs run under the host's own Python, which is bound below
/__modal with the libraries that it needs and started through its own loader.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from workbench.local_cloud.rootfs import launcher
from workbench.local_cloud.rootfs.host_python import (
    compiled,
    mount_host_python,
    started_by_host_python,
    without_libraries,
)
from workbench.local_cloud.rootfs.layers import order_descriptor
from workbench.local_cloud.rootfs.mounting import Places, isolated, order
from workbench.local_cloud.sandboxes.engine.isolation import FS_TOOLS, GUEST
from workbench.local_cloud.sandboxes.engine.spec import SandboxSpec

_AGENT = "/__modal/agent.py"
_SYNC = "/__modal/sync.py"
_ETC = {"hosts": "127.0.0.1 localhost\n::1 localhost\n", "resolv.conf": "", "hostname": "sandbox\n"}


def inside(argv: Sequence[str], env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the words and the environment for a program: the SDK's own ones are started by the host's Python.

    Its loader gets none of the libraries that an image's environment names: they are made for the image's own.
    """
    if argv and argv[0] in FS_TOOLS.values():
        return [*started_by_host_python(), *argv], without_libraries(env)[0]
    return list(argv), dict(env)


@contextmanager
def ordered(
    spec: SandboxSpec, *, seccomp: bytes, niceness: int, info_fd: int, block_fd: int, control_fd: int
) -> Iterator[tuple[int, list[int]]]:
    """Give the descriptor of the launcher's order and all that must go with it, as `isolation.command` does.

    Raises IsolationUnavailableError when bubblewrap or a Python below /usr is missing.
    """
    assert spec.root is not None
    descriptors: list[int] = []

    def data(content: bytes) -> str:
        descriptors.append(order_descriptor(content))
        return str(descriptors[-1])

    places = Places()
    argv = [*isolated(places, hostname="sandbox"), "--unshare-net", "--as-pid-1"]
    argv += ["--clearenv", "--setenv", "LC_ALL", "C"]  # any other locale is read from the image's files
    argv += ["--info-fd", str(info_fd), "--block-fd", str(block_fd), "--seccomp", data(seccomp)]
    argv += ["--bind", launcher.MERGED, "/", "--proc", "/proc", "--dev", "/dev"]
    argv += ["--perms", "1777", "--size", str(spec.limits.tmpfs_bytes), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108  # inside
    argv += mount_host_python(places)
    for name, text in _ETC.items():
        argv += ["--perms", "0644", "--ro-bind-data", data(text.encode()), places.file(f"/etc/{name}")]
    argv += ["--perms", "0444", "--ro-bind-data", data(compiled(GUEST / "agent.py", _AGENT)), places.file(_AGENT)]
    argv += ["--perms", "0444", "--ro-bind-data", data(compiled(GUEST / "sync.py", _SYNC)), places.file(_SYNC)]
    started = " ".join([*started_by_host_python(), _SYNC])
    sync = f'#!/bin/sh\nunset LD_PRELOAD LD_AUDIT LD_LIBRARY_PATH GLIBC_TUNABLES\nexec {started} "$@"\n'.encode()
    argv += ["--perms", "0555", "--ro-bind-data", data(sync), places.program("/bin/sync")]
    for script, target in FS_TOOLS.items():
        argv += ["--perms", "0444", "--ro-bind-data", data((GUEST / script).read_bytes()), places.file(target)]
    for path in spec.directories:
        places.directory(path)
    for mount in spec.mounts:
        argv += places.bind(mount.source, mount.target, read_only=mount.read_only)
    argv += ["--chdir", "/", "--", *started_by_host_python(), _AGENT]
    argv += [str(control_fd), str(spec.limits.processes), str(spec.limits.workspace_bytes), spec.workdir]
    try:
        content = order(spec.root, places, argv, owner=spec.owner, processes=spec.limits.processes, niceness=niceness)
        yield int(data(content)), descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
