"""A small image of this machine's own programs, such as a registry has for other systems than this machine's."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.layers import Image, Layer, archive, directory, link, member

PROGRAMS = (
    *("sh", "bash", "cat", "chmod", "cut", "env", "find", "grep", "head", "id", "ln", "ls", "mkdir", "mv", "readlink"),
    *("rm", "sed", "sleep", "sort", "stat", "tar", "touch", "true", "false"),
)
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\n",
    "etc/group": "root:x:0:\nme:x:1000:\nus:x:50:me\n",
}


def small_image(
    config: Mapping[str, Any] | None = None,
    *,
    programs: Iterable[str] = PROGRAMS,
    libraries_of: Iterable[str] = (),
    files: Mapping[str, str] | None = None,
) -> Image:
    """Make an image with programs (names or paths) below /bin, the users root and me, and files by their paths.

    It has the libraries of `libraries_of`, too.
    """
    paths = {}
    for name in (*programs, *libraries_of):
        found = shutil.which(name)
        assert found is not None, name
        if name not in libraries_of:
            paths[f"bin/{Path(name).name}"] = Path(found)
        listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
        for library in re.findall(r"(/\S+) \(0x", listed):
            paths[library.lstrip("/")] = Path(library)
    members = [directory(name) for name in ("bin", "etc", "home")]
    members += [directory("home/me", owner=(1000, 1000)), directory("root", 0o700), directory("tmp", 0o1777)]
    members += [link("usr", ".")]
    members += [member(name, path.read_bytes(), mode=0o755) for name, path in sorted(paths.items())]
    members += [member(name, text.encode()) for name, text in {**_ACCOUNTS, **(files or {})}.items()]
    return Image([Layer.of(archive(*members))], {"Env": ["PATH=/bin"], **(config or {})})
