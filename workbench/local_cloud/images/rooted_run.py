"""RUN steps: programs of the image, run as root of its file system and as nobody outside.

They have the network, since packages come from there, unless they ask for none; and this machine's configuration of
pip, uv and npm. Nothing of that gets into the layer.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from workbench.local_cloud.base import host
from workbench.local_cloud.images import build_sandbox, layouts
from workbench.local_cloud.images.build_sandbox import BuildFailedError
from workbench.local_cloud.images.pip_settings import FOR_UV
from workbench.local_cloud.images.plans import SCRIPT, ImageConfig, Run, RunMount
from workbench.local_cloud.images.run_mounts import TMPFS
from workbench.local_cloud.rootfs.host_python import started_by_host_python, without_libraries
from workbench.local_cloud.rootfs.ids import ids
from workbench.local_cloud.rootfs.layers import Root, order_descriptor
from workbench.local_cloud.rootfs.mounting import Places, Word, made_places
from workbench.local_cloud.rootfs.starting import command, ordered

_TOOLS = "/__modal/tools"
_AS_USER = "/__modal/as_user.py"
_GUEST_AGENT = Path(__file__).parents[1] / "sandboxes" / "guest" / "agent.py"
_PIP = f'#!/bin/sh\n{FOR_UV}exec {_TOOLS}/uv pip "$@"\n'
_NAMES = ("/etc/resolv.conf", "/etc/hosts")
_SETTINGS = "/__modal/settings"  # below it, what the configuration refers to: nothing of the image is hidden by it
Data = Callable[[bytes], str]


class RunStep:
    """Runs RUN steps of one build."""

    def __init__(self, *, seccomp: bytes, log: Callable[[str, int], None]) -> None:
        self._seccomp = seccomp
        self._log = log

    async def run(
        self,
        step: Run,
        config: ImageConfig,
        root: Root,
        paths: Mapping[RunMount, Path],
        secrets: Mapping[str, str],
    ) -> list[str]:
        """Run a step on a root to its end; `paths` are the host's for its mounts.

        Returns what had to be made on the root for what was mounted, see `mounting.made_places`. Raises
        BuildFailedError, IsolationUnavailableError, OSError.
        """
        descriptors: list[int] = []

        def data(content: bytes) -> str:
            descriptors.append(order_descriptor(content))
            return str(descriptors[-1])

        try:
            places = Places()
            words, env = list(step.words), _env(step, config)
            env |= {each.variable: secrets[each.name] for each in step.mounts if each.variable and each.name in secrets}
            if config.interpreter:  # an environment of ours, which has no pip: uv takes its place
                words = [_with_uv(word) for word in words]
            argv = [*([] if step.network else ["--unshare-net"]), *_bound(config, places, data)]
            for mount in step.mounts:
                argv += _mounted(mount, paths.get(mount), secrets, places, data)
            if step.script:
                argv += ["--perms", "0555", "--ro-bind-data", data(step.script.encode()), places.file(SCRIPT)]
            if step.user:
                argv += ["--perms", "0444", "--ro-bind-data", data(_GUEST_AGENT.read_bytes()), places.file(_AS_USER)]
                env, later = without_libraries(env)
                words = [*started_by_host_python(), _AS_USER, "as", step.user, *later, "--", *words]
            argv += ["--chdir", places.directory(step.workdir), "--", *words]
            made = order_descriptor(b"")
            descriptors.append(made)
            with ordered(root, places, argv, env=env, seccomp=self._seccomp, owner=ids().root, made=made) as (
                order,
                inherited,
            ):
                what, pass_fds = f"RUN {step.text}", [*descriptors, *inherited]
                await build_sandbox.run_to_end(command(order), what=what, log=self._log, pass_fds=pass_fds)
            return made_places(made)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    async def can_run(self, program: Path, root: Root) -> bool:
        """Whether a program of this machine runs on a root with the libraries that are there. Raises OSError."""
        places = Places()
        argv = places.bind(program, f"{_TOOLS}/uv", read_only=True)
        argv += ["--chdir", "/", "--", f"{_TOOLS}/uv", "--version"]
        try:
            with ordered(root, places, argv, env={}, seccomp=self._seccomp, owner=ids().root) as (order, inherited):
                await build_sandbox.run_to_end(
                    command(order), what=program.name, log=lambda text, fd: None, pass_fds=inherited
                )
        except BuildFailedError:
            return False
        return True


def _env(step: Run, config: ImageConfig) -> dict[str, str]:
    configured = build_sandbox.configuration()
    env = {name: build_sandbox.moved(value, _SETTINGS) for name, value in configured.items()}
    env |= {"UV_NO_PROGRESS": "1", "UV_LINK_MODE": "copy"}
    if not step.user:  # others get theirs when they become that user
        env["HOME"] = "/root"
    if config.interpreter:
        env |= {"UV_PYTHON_DOWNLOADS": "never", "VIRTUAL_ENV": layouts.VENV}
    env |= dict(step.env)
    if config.interpreter:
        env["PATH"] = f"{_TOOLS}:{env['PATH']}"
    return env


def _bound(config: ImageConfig, places: Places, data: Data) -> list[Word]:
    """Return bubblewrap's words for what a build has from this machine: names, settings of installers, and uv."""
    argv: list[Word] = []
    for path in _NAMES:
        if Path(path).is_file():
            argv += ["--perms", "0444", "--ro-bind-data", data(Path(path).read_bytes()), places.file(path)]
    for source, target in build_sandbox.configured_files():
        text = build_sandbox.moved(source.read_text("utf-8", "surrogateescape"), _SETTINGS)
        content = text.encode("utf-8", "surrogateescape")
        argv += ["--perms", "0444", "--ro-bind-data", data(content), places.file(target)]
    for path in build_sandbox.configured_paths():
        if Path(path).exists():
            argv += places.bind(Path(path), _SETTINGS + path, read_only=True)
    if (uv := host.uv()) is not None and config.interpreter:
        argv += places.bind(Path(uv), f"{_TOOLS}/uv", read_only=True)
        for name in ("pip", "pip3"):
            argv += ["--perms", "0555", "--ro-bind-data", data(_PIP.encode()), places.file(f"{_TOOLS}/{name}")]
    return argv


def _mounted(mount: RunMount, path: Path | None, secrets: Mapping[str, str], places: Places, data: Data) -> list[Word]:
    """Return bubblewrap's words for one mount of a step; the caller has made `path`, where there is one."""
    if path is not None:
        return places.bind(path, mount.target, read_only=mount.read_only)
    if mount.kind == TMPFS:
        return ["--perms", "1777", "--size", str(mount.size_bytes), "--tmpfs", places.directory(mount.target)]
    if not mount.target or mount.name not in secrets:
        return []
    mode = mount.mode if mount.mode is not None else 0o400
    if mount.uid or mount.gid:  # the file is root's: who else is meant may read it
        mode |= (mode & 0o400) >> 3 | (mode & 0o400) >> 6
    content = secrets[mount.name].encode("utf-8", "surrogateescape")
    return ["--perms", f"{mode & 0o777:04o}", "--ro-bind-data", data(content), places.file(mount.target)]


def _with_uv(text: str) -> str:
    return text.replace("python -m pip ", "pip ").replace("python3 -m pip ", "pip ")
