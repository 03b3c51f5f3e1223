"""The host's own Python inside a root file system that may have none: bound below /__modal, with its loader.

It is started by its own loader with its own libraries, so that the image's libraries do not matter, and by a copy of
that loader which does not know the image's list of libraries to load into every program.
"""

import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from workbench.local_cloud.base.bubblewrap import IsolationUnavailableError
from workbench.local_cloud.base.system_root import system_python
from workbench.local_cloud.rootfs.mounting import Places, Word

_HOST_USR = "/__modal/host/usr"
_HOST_LOADER = "/__modal/host/loader"
_COMPILE_S = 60
# A magic number, and then flags, a time and a size that nobody compares with anything: there is no source beside it.
_COMPILE = """
import marshal, sys
from importlib.util import MAGIC_NUMBER
code = compile(sys.stdin.buffer.read(), sys.argv[1], "exec", dont_inherit=True)
sys.stdout.buffer.write(MAGIC_NUMBER + bytes(12) + marshal.dumps(code))
"""


def mount_host_python(places: Places) -> list[Word]:
    """Return bubblewrap's words that bind the host's programs and libraries. Raises IsolationUnavailableError."""
    words = places.bind(Path("/usr"), _HOST_USR, read_only=True)
    return [*words, *places.bind_loader(Path(_found()[1]), _HOST_LOADER)]


def started_by_host_python() -> list[str]:
    """Return the words that start the host's Python inside; a script's path follows.

    Raises IsolationUnavailableError.
    """
    python, loader = _found()
    libraries = sorted({str(Path(loader).parent), "/usr/lib", "/usr/lib64"})
    return [
        *(_HOST_LOADER, "--library-path", ":".join(map(_inside, libraries)), _inside(python)),
        *("-I", "-S", "-X", "utf8"),
    ]


def compiled(script: Path, name: str) -> bytes:
    """Return a script as the host's Python runs it at once: compiled, with `name` in its tracebacks.

    Compiling takes a third of what the script's start takes. An interpreter knows what is compiled by its beginning,
    whatever its name. Raises IsolationUnavailableError.
    """
    return _compiled(_found()[0], script, name)


@cache
def _compiled(python: str, script: Path, name: str) -> bytes:
    done = subprocess.run(
        [python, "-I", "-S", "-c", _COMPILE, name],
        input=script.read_bytes(),
        capture_output=True,
        env={},
        timeout=_COMPILE_S,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise IsolationUnavailableError(f"The host's {python} cannot compile {script.name}: {said}")
    return done.stdout


def without_libraries(env: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return an environment for the host's Python, and the NAME=VALUE that it lacks.

    What an image tells the loader is for its own programs: its libraries are made for another one than the host's.
    """
    apart = {name: value for name, value in env.items() if name.startswith(("LD_", "GLIBC_TUNABLES"))}
    rest = {name: value for name, value in env.items() if name not in apart}
    return rest, [f"{name}={value}" for name, value in apart.items()]


def _found() -> tuple[str, str]:
    python, loader = system_python(), _loader()
    if python is None or loader is None:
        raise IsolationUnavailableError(
            "There is no python3 with its loader below /usr, which images need here. "
            "Run: sudo apt-get install -y python3"
        )
    return python, loader


@cache
def _loader() -> str | None:
    found = [path for place in ("/lib64", "/lib") for path in sorted(Path(place).glob("ld-linux*.so.*"))]
    return next((real for path in found if (real := os.path.realpath(path)).startswith("/usr/")), None)


def _inside(path: str) -> str:
    return path.replace("/usr", _HOST_USR, 1)
