"""The bubblewrap sandbox in which a layer is built, because installers run code of the packages that they install.

That code is not trusted. It can read the host's system and the image's files. It can write to a scratch home and to the
parts of the image that the layer changes (`venv`, `npm`). It sees neither the cloud's state nor its credentials. It has
the network, since packages come from there, and this machine's configuration of pip, uv and npm: indexes, proxies,
certificates.
"""

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workbench.local_cloud.base import host
from workbench.local_cloud.base.host_processes import lines
from workbench.local_cloud.base.programs import Program
from workbench.local_cloud.base.system_root import interpreter_paths, system_root
from workbench.local_cloud.images import layouts
from workbench.local_cloud.images.pip_settings import of_files
from workbench.local_cloud.rootfs.layers import order_descriptor
from workbench.local_cloud.rootfs.mounting import environment

LAYER_DEADLINE_S = 20 * 60.0
_REAP_S = 5.0
_TOOLS = "/opt/tools"
_HOME = "/home/build"
_CONFIGURATION = re.compile(
    r"(?:UV|PIP|NPM_CONFIG|npm_config)_(?:.*_)?(?:INDEX|INDEX_URL|INDEX_STRATEGY|FIND_LINKS|CERT|NATIVE_TLS|SYSTEM_CERTS"
    r"|TRUSTED_HOST|INSECURE_HOST|TIMEOUT|RETRIES|PROXY|OFFLINE|NO_INDEX|CONSTRAINT|REGISTRY|registry|CONFIG_FILE)"
    r"|UV_INDEX_\w+_(?:USERNAME|PASSWORD)"
    r"|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NODE_EXTRA_CA_CERTS"
    r"|(?:https?|all|no)_proxy|(?:HTTPS?|ALL|NO)_PROXY"
)
# (path below the user's home, path below the build's home); the system's files have the same path in both.
_USER_FILES = (
    (".config/pip/pip.conf", ".config/pip/pip.conf"),
    (".pip/pip.conf", ".config/pip/pip.conf"),
    (".config/uv/uv.toml", ".config/uv/uv.toml"),
    (".npmrc", ".npmrc"),
)
_SYSTEM_FILES = ("/etc/pip.conf", "/etc/uv/uv.toml", "/etc/npmrc", "/etc/xdg/pip/pip.conf")
_PATH = re.compile(r"(?:^|[\s=,'\"]|file://)(/[^\s,'\"=;#]+)", re.MULTILINE)


class BuildFailedError(Exception):
    """A step of a build failed; the message is a sentence that says which, and ends with what the program printed."""


class BuildSandbox:
    """Runs the programs of one layer's build, one after the other, on the files in a scratch directory.

    `image` is the directory of the image that is built.
    """

    def __init__(
        self,
        scratch: Path,
        *,
        env: Mapping[str, str],
        workdir: str,
        writes: Sequence[str],
        log: Callable[[str, int], None],
    ) -> None:
        """`scratch` is an empty directory for this build; `log` gets each line with its file descriptor, 1 or 2.

        `writes` names those of `venv` and `npm` that may be written to; the others may share files with the parent.
        """
        self._writes = tuple(writes)
        self._scratch = scratch
        self.image = scratch / "image"
        self.python_prefix = ""  # the path at which the image's copied Python is seen, empty without one
        self._env = dict(env)
        self._workdir = workdir
        self._log = log
        for name in ("home", "tmp"):
            (scratch / name).mkdir()

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        with_cloud: bool = False,
        writable: Sequence[tuple[Path, str]] = (),
        quiet: bool = False,
        what: str = "",
    ) -> None:
        """Run one program to its end. It is killed with its descendants when the caller is cancelled or this ends.

        `env` is added to the build's environment; `with_cloud` makes the cloud's own packages visible; `writable` are
        (host path, path inside) to bind writable; `quiet` keeps the output out of the log, and `what` names the program
        in a failure. Raises BuildFailedError for
        an exit code other than 0, and OSError when the program cannot be started.
        """
        inside = order_descriptor(environment({**self._environment(), **(env or {})}))
        program, *options = self._bubblewrap(with_cloud=with_cloud, writable=writable)
        try:
            await run_to_end(
                [program, "--args", str(inside), *options, *argv],
                what=what or f"{argv[0].rpartition('/')[2]} {' '.join(argv[1:3])}",
                log=(lambda text, fd: None) if quiet else self._log,
                pass_fds=[inside],
            )
        finally:
            os.close(inside)

    def _environment(self) -> dict[str, str]:
        return {
            **configuration(),
            "LANG": "C.UTF-8",
            **self._env,
            "HOME": _HOME,
            "PATH": f"{_TOOLS}:{self._env.get('PATH', layouts.IMAGE_PATH)}",
            "UV_LINK_MODE": "copy",
            "UV_COMPILE_BYTECODE": "1",  # guests cannot: the environment is read-only for them
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def _bubblewrap(self, *, with_cloud: bool, writable: Sequence[tuple[Path, str]]) -> list[str]:
        argv = system_root()
        argv += ["--bind", str(self._scratch / "home"), _HOME, "--bind", str(self._scratch / "tmp"), "/tmp"]  # noqa: S108  # inside
        for path in _SYSTEM_FILES:
            argv += ["--ro-bind-try", path, path]
        for source in configured_paths():
            argv += ["--ro-bind-try", source, source]
        cloud = interpreter_paths() if with_cloud else []
        split = [*cloud, *(path for _, path in writable)]
        for source_path, path in layouts.binds(self.image, prefix=self.python_prefix, split=split):
            argv += ["--ro-bind", str(source_path), path]
        for path in cloud:
            argv += ["--ro-bind", path, path]
        for source, target in _USER_FILES:
            argv += ["--ro-bind-try", str(Path.home() / source), f"{_HOME}/{target}"]
        for name in self._writes:
            path = layouts.ENVIRONMENTS[name]
            argv += ["--bind", str(layouts.below(self.image / name, path)), path]
        for source_path, path in writable:
            argv += ["--bind", str(source_path), path]
        if (uv := host.uv()) is not None:
            argv += ["--ro-bind", uv, f"{_TOOLS}/uv"]
        if (found := host.npm()) is not None and not found[0].startswith("/usr/"):
            node = str(Path(found[0]).parent.parent)
            argv += ["--ro-bind", node, node]
        return [*argv, "--dir", self._workdir, "--chdir", self._workdir, "--"]


async def run_to_end(
    command: Sequence[str],
    *,
    what: str,
    log: Callable[[str, int], None],
    pass_fds: Sequence[int] = (),
) -> None:
    """Run one program of a build to its end; it is killed with its descendants when the caller is cancelled.

    It gets no environment but a PATH: what runs inside has its own from bubblewrap.

    `log` gets each line with its file descriptor, 1 or 2. Raises BuildFailedError, which names the step `what`, for an
    exit code other than 0, and OSError when the program cannot be started.
    """
    program = await Program.start(*command, env={"PATH": os.defpath}, pass_fds=pass_fds, cwd="/")
    tail: list[str] = []
    readers = [
        asyncio.create_task(_forward(program.stdout, 1, log, tail)),
        asyncio.create_task(_forward(program.stderr, 2, log, tail)),
    ]
    try:
        code = await program.wait()
        await asyncio.wait(readers, timeout=_REAP_S)
    finally:
        await program.aclose()
        for reader in readers:
            reader.cancel()
    if code:
        printed = " ".join(" ".join(tail).split())[-1500:]
        raise BuildFailedError(f"'{what[:300]}' ended with exit code {code}. {printed}")


async def _forward(stream: asyncio.StreamReader, fd: int, log: Callable[[str, int], None], tail: list[str]) -> None:
    async for text in lines(stream):
        tail.append(text)
        del tail[:-12]
        log(text, fd)


def configuration() -> dict[str, str]:
    """Return the environment variables that configure this machine's installers, also for what pip's files say.

    Raises BuildFailedError.
    """
    files = [source for source, _ in configured_files() if source.name == "pip.conf"]
    own = {name: value for name, value in os.environ.items() if _CONFIGURATION.fullmatch(name)}
    try:
        said = of_files([*files, Path(own.get("PIP_CONFIG_FILE", os.devnull))])
    except ValueError as error:
        raise BuildFailedError(f"This machine's configuration of pip cannot be used: {error}.") from None
    return {**said, **own}


def configured_files() -> list[tuple[Path, str]]:
    """Return the files that configure installers for root inside an image, as (host path, path inside)."""
    found = [(Path(path), path) for path in _SYSTEM_FILES]
    found += [(Path.home() / source, f"/root/{target}") for source, target in _USER_FILES]
    return [(source, target) for source, target in found if source.is_file()]


def moved(text: str, prefix: str) -> str:
    """Return a configuration that finds what it refers to on this machine, such as local indexes, below a prefix."""
    paths = set(configured_paths())

    def place(match: "re.Match[str]") -> str:
        path = match.group(1)
        return match.group().removesuffix(path) + (prefix + path if path in paths else path)

    return _PATH.sub(place, text)


def configured_paths() -> list[str]:
    """Return the directories and files that the installers' configuration refers to, such as local indexes."""
    texts = [value for name, value in os.environ.items() if _CONFIGURATION.fullmatch(name)]
    for path in (*(Path.home() / source for source, _ in _USER_FILES), *map(Path, _SYSTEM_FILES)):
        try:
            texts.append(path.read_text(errors="replace"))
        except OSError:
            continue
    found = {match.group(1) for text in texts for match in _PATH.finditer(text)}
    home = str(Path.home())
    return sorted(
        path for path in found if len(Path(path).parts) > 2 and not f"{home}/".startswith(f"{path.rstrip('/')}/")
    )
