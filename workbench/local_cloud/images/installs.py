"""Parses the commands of installers: pip and uv (for the image's environment), npm (for its global packages)."""

from dataclasses import dataclass

from workbench.local_cloud.images.dockerfile import NeedsRootError, RefusedError

# Options that say where to install, which the cloud decides, and options without an effect here: they are dropped.
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
    """Install the packages of a project's lock file; the arguments are those after `uv sync`."""

    arguments: tuple[str, ...]


@dataclass(frozen=True)
class NpmInstall:
    """Install Node packages globally; the arguments are packages and npm's options."""

    arguments: tuple[str, ...]


def pip_arguments(command: list[str]) -> list[str] | None:
    """Return the packages and options of a `pip install` command in any spelling; None for any other command.

    Raises RefusedError for what the cloud does not do, such as another subcommand of pip.
    """
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
        raise NeedsRootError(f"'pip {rest[0] if rest else ''}' is not implemented by the local cloud: use pip install.")
    found: list[str] = []
    words = iter(rest[1:])
    for word in words:
        option = word.partition("=")[0]
        if option in _ELSEWHERE:
            raise NeedsRootError(f"{option}: packages go into the image's own environment only. Leave it out.")
        if option in _PIP_DROPPED or option in _PIP_DROPPED_WITH_VALUE:
            if option in _PIP_DROPPED_WITH_VALUE and "=" not in word:
                next(words, None)
            continue
        found.append(word)
    return found


def npm_arguments(arguments: list[str]) -> list[str] | None:
    """Return the packages and options of an `npm install -g`; None for a command that installs nothing.

    `arguments` are those after `npm`. Raises RefusedError for what the cloud does not do.
    """
    verbs = [word for word in arguments if not word.startswith("-")]
    if verbs[:2] in (["cache", "clean"], ["cache", "verify"]):
        return None
    if not verbs or verbs[0] not in ("install", "i", "add"):
        raise NeedsRootError(
            f"'npm {verbs[0] if verbs else ''}' is not implemented by the local cloud: use npm install -g."
        )
    if not _NPM_GLOBAL & set(arguments):
        raise NeedsRootError("npm install without -g is not implemented by the local cloud: add -g.")
    for word in arguments:
        if word.startswith(_NPM_REFUSED):
            raise NeedsRootError(
                f"{word.partition('=')[0]}: packages go into the image's own prefix only. Leave it out."
            )
    wanted = [word for word in arguments if word not in _NPM_GLOBAL]
    wanted.remove(verbs[0])
    if len(verbs) < 2:
        raise RefusedError("npm install -g needs the name of a package.")
    return wanted
