"""Reads the arguments of installers: pip and uv (into the image's environment), npm (into its global packages)."""

from dataclasses import dataclass

from workbench.local_cloud.images.dockerfile import RefusedError

# Where things are installed is the image's business: these are dropped, with the value of those that have one.
_PIP_DROPPED = frozenset(("--system", "--break-system-packages", "--no-cache-dir", "--no-cache"))
_PIP_DROPPED_WITH_VALUE = frozenset(("--python", "-p", "--root-user-action"))
_ELSEWHERE = frozenset(("--target", "-t", "--prefix", "--root", "--user", "--prefix-path"))
_NPM_GLOBAL = frozenset(("-g", "--global", "--location=global"))
_NPM_REFUSED = ("--prefix", "-C", "--userconfig", "--globalconfig", "--cache", "--script-shell")


@dataclass(frozen=True)
class PipInstall:
    """Install Python packages; the arguments are pip's or uv's own."""

    arguments: tuple[str, ...]


@dataclass(frozen=True)
class UvSync:
    """Install what a project's lock file says."""

    arguments: tuple[str, ...]


@dataclass(frozen=True)
class NpmInstall:
    """Install Node packages globally."""

    arguments: tuple[str, ...]


def pip_arguments(command: list[str]) -> list[str] | None:
    """What `pip install` in any of its spellings is asked for; None for another command. Raises RefusedError."""
    names = [word.rpartition("/")[2] for word in command]
    if names[1:3] == ["-m", "pip"] and names[0] in ("python", "python3"):
        rest = command[3:]
    elif names[:1] in (["pip"], ["pip3"]):
        rest = command[1:]
    elif names[:2] == ["uv", "pip"]:
        rest = command[2:]
    else:
        return None
    while rest and rest[0] in ("-q", "--quiet", "-v", "--no-input", "--disable-pip-version-check", "--no-cache-dir"):
        rest = rest[1:]
    if rest[:2] == ["cache", "purge"]:
        return []
    if rest[:1] != ["install"]:
        raise RefusedError(f"pip {rest[0] if rest else ''} is not interpreted by the local cloud, pip install is.")
    found: list[str] = []
    words = iter(rest[1:])
    for word in words:
        option = word.partition("=")[0]
        if option in _ELSEWHERE:
            raise RefusedError(f"{option}: packages are installed into the image's own environment.")
        if option in _PIP_DROPPED or option in _PIP_DROPPED_WITH_VALUE:
            if option in _PIP_DROPPED_WITH_VALUE and "=" not in word:
                next(words, None)
            continue
        found.append(word)
    return found


def npm_arguments(arguments: list[str]) -> list[str] | None:
    """What `npm install -g` is asked for, flags included; None when nothing is installed. Raises RefusedError."""
    verbs = [word for word in arguments if not word.startswith("-")]
    if verbs[:2] in (["cache", "clean"], ["cache", "verify"]):
        return None
    if not verbs or verbs[0] not in ("install", "i", "add"):
        raise RefusedError(f"npm {verbs[0] if verbs else ''} is not interpreted by the local cloud, npm install -g is.")
    if not _NPM_GLOBAL & set(arguments):
        raise RefusedError("npm install without -g is not interpreted by the local cloud.")
    for word in arguments:
        if word.startswith(_NPM_REFUSED):
            raise RefusedError(f"{word.partition('=')[0]}: packages are installed into the image's own prefix.")
    wanted = [word for word in arguments if word not in _NPM_GLOBAL]
    wanted.remove(verbs[0])
    if len(verbs) < 2:
        raise RefusedError("npm install -g names no package.")
    return wanted
