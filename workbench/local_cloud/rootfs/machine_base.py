"""The base that is made of this machine's own Debian or Ubuntu: a small system, copied from its installed packages.

It has the essential packages, apt, Python, certificates, and what these need. It has none of the machine's own files:
only what packages list is copied, configuration only as the package brought it, and of that only what every user may
read. Users and groups are those of a fresh installation.
"""

import hashlib
import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workbench.local_cloud.base.system_root import system_python
from workbench.local_cloud.rootfs import user_namespace
from workbench.local_cloud.rootfs.ids import COUNT

DPKG = Path("/var/lib/dpkg")
SYSTEMS = ("debian", "ubuntu")
# What debian_slim has on Modal, as far as it is installed here.
_WANTED = (
    *("apt", "ca-certificates", "python3", "python3-minimal", "python3-pip"),
    *("debian-archive-keyring", "ubuntu-keyring", "gpgv"),
)
_LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/usr/share/lintian/")
_REFUSES_PIP = re.compile(r"/usr/lib/python3[.\d]*/EXTERNALLY-MANAGED")  # on Modal, pip installs for all of the image
_LOCAL = Path("/usr/local")
_WHEELS = Path("/usr/share/python-wheels")  # where `guest_pip` looks
_PIP = Path("/usr/lib/python3/dist-packages/pip")  # of the package python3-pip
_GUEST_PIP = Path(__file__).parents[1] / "images" / "guest_pip.py"
_OF_PYTHON_ALONE = ("site-packages", "test", "tests", "idlelib", "turtledemo")
# Public certificates, also those that this machine's administrator has added: downloads need them.
CERTIFICATES = "/etc/ssl/certs"
_PAM = {
    "common-auth": (
        "auth [success=1 default=ignore] pam_unix.so nullok\nauth requisite pam_deny.so\nauth required pam_permit.so\n"
    ),
    "common-account": "account required pam_unix.so\n",
    "common-password": "password required pam_unix.so obscure yescrypt\n",
    "common-session": "session required pam_unix.so\n",
    "common-session-noninteractive": "session required pam_unix.so\n",
}
_ASK_S = 60
_VERSION = 2  # to be raised when the same packages are copied differently from then on


@dataclass(frozen=True)
class Package:
    """An installed package: its name, architecture, version, and its paragraph in dpkg's status file."""

    name: str
    architecture: str
    version: str
    paragraph: str
    conffiles: dict[str, str]  # path → md5 as the package brought it

    def info(self, kind: str) -> Path:
        """Return the path of one of dpkg's files about the package, such as `list`."""
        plain = DPKG / "info" / f"{self.name}.{kind}"
        qualified = DPKG / "info" / f"{self.name}:{self.architecture}.{kind}"
        return qualified if qualified.exists() else plain


class NoMachineBaseError(Exception):
    """No base can be made of this machine's system; the message says why and what to do."""


def packages(more: Iterable[str] = ()) -> list[Package]:
    """Return the packages that the base consists of, by name, with the installed ones of `more`.

    Raises NoMachineBaseError.
    """
    require()
    installed = {package.name: package for package in _installed()}
    providers: dict[str, list[str]] = {}
    for package in installed.values():
        for name in _names(_field(package.paragraph, "Provides")):
            providers.setdefault(name, []).append(package.name)
    waiting = [name for name, package in installed.items() if _is_essential(package)]
    waiting += [name for name in (*_WANTED, *more) if name in installed]
    found: dict[str, Package] = {}
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        package = found[name] = installed[name]
        for field in ("Pre-Depends", "Depends"):
            for alternatives in _field(package.paragraph, field).split(","):
                choice = [other for part in alternatives.split("|") for other in _names(part)]
                known = [other for other in choice if other in installed]
                known += [other for virtual in choice for other in providers.get(virtual, ())]
                waiting += known[:1]
    return [found[name] for name in sorted(found)]


def require() -> None:
    """Raise NoMachineBaseError if this machine's system is none of which a base can be made."""
    try:
        system = platform.freedesktop_os_release().get("ID", "")
    except OSError:
        system = ""
    if system not in SYSTEMS or not (DPKG / "status").is_file():
        raise NoMachineBaseError(
            "This machine's system is neither Debian nor Ubuntu, so no base image can be made of it. Name a base image "
            "that a registry has, with Image.from_registry."
        )


def key(chosen: Iterable[Package]) -> str:
    """Return what identifies the base that is made of packages."""
    text = "\n".join(f"{package.name} {package.version}" for package in chosen)
    return hashlib.sha256(f"machine base {_VERSION}\n{text}".encode()).hexdigest()


def changed_at() -> tuple[int, ...]:
    """Return when what a base is made of has changed last, as far as one may remember what was read of it."""
    found = []
    for path in (DPKG / "status", CERTIFICATES, "/etc/apt", "/etc/apt/sources.list.d", "/etc/ld.so.cache"):
        try:
            found.append(Path(path).stat().st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)


def stamps(paths: Iterable[str]) -> list[tuple[str, int, int]]:
    """Return the paths, sizes and times of files, and of this machine's certificates."""
    found = []
    for path in (*paths, *map(str, sorted(Path(CERTIFICATES).glob("*")))):
        with suppress(OSError):
            status = Path(path).stat()
            found.append((path, status.st_size, status.st_mtime_ns))
    return found


def files(chosen: Iterable[Package]) -> Iterator[str]:
    """Yield the absolute paths that packages have on this machine, each once; directories are among them."""
    seen: set[str] = set()
    diversions = _diversions()
    for package in chosen:
        for line in package.info("list").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            path, diverted_by = diversions.get(line, (line, ""))
            path = line if diverted_by == package.name else path
            if path in ("", "/.") or path in seen or path.startswith(_LEFT_OUT) or _REFUSES_PIP.fullmatch(path):
                continue
            seen.add(path)
            if path in package.conffiles and not _is_as_packaged(Path(path), package.conffiles[path]):
                continue
            yield path


def local_files(more: Iterable[str]) -> list[str]:
    """Return the paths that no package has: Pythons, and programs that `more` names like packages, below /usr/local.

    Node's own programs are taken as they are now, since they bring themselves up to date.
    """
    found = []
    for python in sorted(_LOCAL.glob("bin/python3.*")):
        if re.fullmatch(r"python3\.\d+", python.name) and python.is_file() and not python.is_symlink():
            found += [str(python), *map(str, sorted(_LOCAL.glob("lib/libpython*.so*")))]
            found += _below(_LOCAL / "lib" / python.name, without=_OF_PYTHON_ALONE)
    names = sorted({*more, *(("node", "npm", "npx") if "nodejs" in more else ())})
    for program in (directory / name for name in names for directory in (_LOCAL / "bin", Path("/usr/bin"))):
        real = program.resolve()
        if program.is_file() and real.is_relative_to(_LOCAL):
            found += [str(real), str(program)]
        if program.is_file() and real.is_relative_to("/usr") and "node_modules" in real.parts:
            found += _below(Path(*real.parts[: real.parts.index("node_modules") + 2]))
    return list(dict.fromkeys(found))


def python_links(paths: set[str]) -> list[tuple[str, str]]:
    """Return links (path, target) for the names that Python has on Modal, as far as `paths` have none such."""
    python = system_python()
    names = [f"{_LOCAL}/bin/{name}" for name in ("python", "python3")]
    return [(name, python) for name in names if name not in paths] if python in paths else []


def pip(chosen: Iterable[Package]) -> dict[str, bytes]:
    """Return files that make `python -m pip` and `pip` work where no package has them, by absolute path.

    They are a wheel that an interpreter of this machine brings along, and the module that runs it. Empty without one.
    """
    python, wheels = system_python(), _wheels()
    if python is None or not wheels or any(package.name == "python3-pip" for package in chosen):
        return {}
    local = python.startswith(f"{_LOCAL}/")
    packages_of_python = f"{_LOCAL}/lib/{Path(python).name}/{'site' if local else 'dist'}-packages"
    starts = f'#!/bin/sh\nexec {python} -m pip "$@"\n'.encode()
    return {
        str(_WHEELS / wheels[0].name): wheels[0].read_bytes(),
        f"{packages_of_python}/pip.py": _GUEST_PIP.read_bytes(),
        **{f"{_LOCAL}/bin/{name}": starts for name in ("pip", "pip3")},
    }


def has_pip() -> bool:
    """Return whether a base of this machine has a pip: the package python3-pip, or a wheel of an interpreter."""
    return _PIP.is_dir() or bool(_wheels())


def _wheels() -> list[Path]:
    brought = importlib.util.find_spec("ensurepip")
    places = [Path(brought.origin).parent / "_bundled"] if brought and brought.origin else []
    return [wheel for place in (*places, _WHEELS) for wheel in sorted(place.glob("pip-*.whl"))]


def owners(paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return (user id, group id) of those paths that do not belong to root."""
    every = list(paths)
    found = zip(every, user_namespace.owners(every), strict=True)
    return {path: owner for path, owner in found if owner is not None and owner != (0, 0) and max(owner) < COUNT}


def alternatives(paths: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the links (path, target) of Debian's alternatives whose programs are among `paths`."""
    for link in sorted(Path("/etc/alternatives").glob("*")):
        if link.is_symlink() and (target := str(link.readlink())) in paths:
            yield str(link), target
            description = DPKG / "alternatives" / link.name
            if description.is_file():
                place = description.read_text(errors="replace").splitlines()[1:2]
                if place and Path(place[0]).is_symlink():
                    yield place[0], str(Path(place[0]).readlink())


def package_database(chosen: Iterable[Package]) -> dict[str, bytes]:
    """Return dpkg's own files for the base, by absolute path: apt and dpkg inside know what is installed."""
    kept = list(chosen)
    found = {
        str(DPKG / "status"): "".join(f"{package.paragraph}\n\n" for package in kept).encode(),
        str(DPKG / "available"): b"",
        str(DPKG / "diversions"): b"",
        str(DPKG / "statoverride"): b"",
        str(DPKG / "info/format"): b"1\n",
    }
    for package in kept:
        stem = package.info("list").name.removesuffix("list")
        for path in (DPKG / "info").glob(f"{stem}*"):
            found[str(path)] = path.read_bytes()
    return found


def accounts() -> dict[str, bytes]:
    """Return the files of users and groups as of a fresh installation, by absolute path."""
    masters = Path("/usr/share/base-passwd")
    users = (masters / "passwd.master").read_text().replace(":*:", ":x:")
    groups = (masters / "group.master").read_text().replace(":*:", ":x:")
    names = [line.partition(":")[0] for line in users.splitlines() if line]
    group_names = [line.partition(":")[0] for line in groups.splitlines() if line]
    if "_apt" not in names:
        users += "_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n"
        names.append("_apt")
    return {
        "/etc/passwd": users.encode(),
        "/etc/group": groups.encode(),
        "/etc/shadow": "".join(f"{name}:*:19000:0:99999:7:::\n" for name in names).encode(),
        "/etc/gshadow": "".join(f"{name}:*::\n" for name in group_names).encode(),
    }


def settings() -> dict[str, bytes]:
    """Return the files that packages' own scripts write at their installation, by absolute path."""
    found = {f"/etc/pam.d/{name}": text.encode() for name, text in _PAM.items()}
    for source, target in (
        ("/usr/share/base-files/nsswitch.conf", "/etc/nsswitch.conf"),
        ("/usr/share/base-files/dot.bashrc", "/root/.bashrc"),
        ("/usr/share/base-files/dot.profile", "/root/.profile"),
        ("/usr/share/debianutils/shells", "/etc/shells"),
        ("/etc/ld.so.cache", "/etc/ld.so.cache"),
    ):
        if Path(source).is_file():
            found[target] = Path(source).read_bytes()
    certificates = Path("/usr/share/ca-certificates")
    names = sorted(str(path.relative_to(certificates)) for path in certificates.rglob("*.crt"))
    found["/etc/ca-certificates.conf"] = "".join(f"{name}\n" for name in names).encode()
    found["/etc/hostname"] = b"modal\n"
    found["/etc/hosts"] = b"127.0.0.1 localhost\n::1 localhost\n"
    found["/etc/environment"] = b""
    return found


def package_sources() -> dict[str, bytes]:
    """Return where apt finds packages, by absolute path, as on this machine; a file with a password is left out."""
    found = {}
    listed = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    for path in listed:
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_bytes()
            if not re.search(rb"://[^/\s]*@", text):
                found[str(path)] = text
    for path in Path("/etc/apt/keyrings").glob("*"):
        if path.is_file() and path.suffix in (".asc", ".gpg"):
            found[str(path)] = path.read_bytes()
    return found


def _below(directory: Path, *, without: tuple[str, ...] = ()) -> list[str]:
    found = []
    for here, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if name not in without)
        found += [here, *(f"{here}/{name}" for name in sorted(names))]
    return found


def _is_essential(package: Package) -> bool:
    essential, priority = (_field(package.paragraph, name) for name in ("Essential", "Priority"))
    return essential == "yes" or priority == "required"


def _installed() -> Iterator[Package]:
    query = ["dpkg-query", "-W", "-f=${binary:Package}\t${Architecture}\t${Version}\t${db:Status-Status}\n"]
    listed = subprocess.run(query, capture_output=True, text=True, timeout=_ASK_S, check=True).stdout
    states = {}
    for line in listed.splitlines():
        name, architecture, version, state = line.split("\t")
        if state == "installed":
            states[(name.partition(":")[0], architecture)] = version
    native = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, timeout=_ASK_S, check=True
    ).stdout.strip()
    for paragraph in (DPKG / "status").read_text(encoding="utf-8", errors="replace").split("\n\n"):
        name, architecture = _field(paragraph, "Package"), _field(paragraph, "Architecture")
        if (name, architecture) in states and architecture in (native, "all"):
            yield Package(
                name, architecture, states[(name, architecture)], paragraph.strip("\n"), _conffiles(paragraph)
            )


def _field(paragraph: str, name: str) -> str:
    found = re.search(rf"^{name}:[ \t]*(.*(?:\n[ \t].*)*)", paragraph, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _names(text: str) -> list[str]:
    return [word for part in text.split(",") if (word := part.split("(")[0].strip().partition(":")[0])]


def _conffiles(paragraph: str) -> dict[str, str]:
    rows = [line.split() for line in _field(paragraph, "Conffiles").splitlines()]
    return {row[0]: row[1] for row in rows if len(row) >= 2}


def _is_as_packaged(path: Path, md5: str) -> bool:
    try:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5
    except OSError:
        return False


def _diversions() -> dict[str, tuple[str, str]]:
    try:
        lines = (DPKG / "diversions").read_text().splitlines()
    except OSError:
        return {}
    return {lines[index]: (lines[index + 1], lines[index + 2]) for index in range(0, len(lines) - 2, 3)}
