"""Small Linux systems for images, made by the tests: BusyBox, which stands for alpine, and one with users."""

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.layers import Image, Layer, archive, directory, link, member

_INTERPRETER = b"/lib64/ld-linux-", b"/lib/ld-linux-", b"/lib/ld-musl-"
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"


@functools.cache
def busybox() -> bytes:
    """A BusyBox that needs no library: Debian's, or this machine's own. Skips where there is neither."""
    with tempfile.TemporaryDirectory() as place:
        try:
            _run("apt-get", "download", "-q", "busybox-static", where=place)
            (package,) = Path(place).glob("busybox-static_*.deb")
            _run("dpkg-deb", "-x", str(package), "system", where=place)
            (found,) = (path for path in Path(place, "system").rglob("busybox") if path.parent.name == "bin")
            return found.read_bytes()
        except (OSError, subprocess.SubprocessError, ValueError):
            own = shutil.which("busybox")
    binary = Path(own).read_bytes() if own else b""
    if not binary or any(name in binary for name in _INTERPRETER):
        pytest.skip("no BusyBox without libraries: Debian's archive is not reachable, and busybox-static not installed")
    return binary


@functools.cache
def busybox_layer(compression: str = "gzip") -> Layer:
    """The layer of a whole system: programs, users, and the directories that programs expect."""
    binary = busybox()
    with tempfile.TemporaryDirectory() as place:
        program = Path(place, "busybox")
        program.write_bytes(binary)
        program.chmod(0o755)
        names = _run(str(program), "--list", where=place).decode().split()
    tar = archive(
        *(directory(name) for name in ("bin", "dev", "etc", "home", "proc", "run", "sys", "usr", "usr/bin", "var")),
        directory("root", 0o700),
        directory("tmp", 0o1777),
        member("bin/busybox", binary, mode=0o755),
        *(link(f"bin/{name}", "busybox") for name in names if name != "busybox"),
        member("etc/passwd", PASSWD),
        member("etc/group", GROUP),
        member("etc/os-release", b'ID=busybox\nNAME="BusyBox"\n'),
    )
    return Layer.of(tar, compression)


def busybox_image(compression: str = "gzip") -> Image:
    """BusyBox as an image: its shell is the command."""
    config = {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["sh"]}
    return Image([busybox_layer(compression)], config)


def image_with_users(compression: str = "gzip") -> Image:
    """BusyBox with a user `ann` of its own, who is the image's USER and owns her home."""
    tar = archive(
        member("etc/passwd", PASSWD + b"ann:x:1000:1000:Ann:/home/ann:/bin/sh\n"),
        member("etc/group", GROUP + b"ann:x:1000:\nstaff:x:50:ann\n"),
        directory("home/ann", 0o700, owner=(1000, 1000)),
        member("home/ann/.profile", b"export GREETING=hello\n", owner=(1000, 1000)),
        member("etc/secret", b"for root\n", mode=0o600),
        member("bin/.wh.vi"),
    )
    config = {
        "Env": ["PATH=/bin:/usr/bin", "HOME=/home/ann"],
        "User": "ann",
        "WorkingDir": "/home/ann",
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo $0"],
        "Labels": {"org.example.kind": "users"},
        "ExposedPorts": {"8080/tcp": {}},
        "StopSignal": "SIGINT",
    }
    return Image([busybox_layer(compression), Layer.of(tar, compression)], config)


def _run(*command: str, where: str) -> bytes:
    return subprocess.run(command, cwd=where, capture_output=True, check=True, timeout=60).stdout
