"""Gives uv, which takes pip's place in builds, what configures pip: uv itself reads nothing of that.

The older names of uv's variables are set, since the options of a command win over these, as they do with pip.
"""

import configparser
from collections.abc import Iterable
from pathlib import Path

# A shell's lines, to be put before the program: they see what a step sets for one command, too.
FOR_UV = """\
[ -n "${UV_DEFAULT_INDEX-}${UV_INDEX_URL-}" ] || export UV_INDEX_URL="${PIP_INDEX_URL-}"
[ -n "${UV_INDEX-}${UV_EXTRA_INDEX_URL-}" ] || export UV_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL-}"
[ -n "${UV_FIND_LINKS-}" ] || export UV_FIND_LINKS="$(echo ${PIP_FIND_LINKS-} | tr ' ' ,)"
[ -n "${UV_CONSTRAINT-}" ] || export UV_CONSTRAINT="${PIP_CONSTRAINT-}"
[ -n "${UV_INSECURE_HOST-}" ] || export UV_INSECURE_HOST="${PIP_TRUSTED_HOST-}"
[ -n "${SSL_CERT_FILE-}" ] || [ -z "${PIP_CERT-}" ] || export SSL_CERT_FILE="$PIP_CERT"
for name in UV_INDEX_URL UV_EXTRA_INDEX_URL UV_FIND_LINKS UV_CONSTRAINT UV_INSECURE_HOST; do
  eval "[ -n \\"\\$$name\\" ]" || unset $name
done
case "${PIP_NO_INDEX-}:$*" in [1tTyY]*:*install*|on:*install*) set -- "$@" --no-index ;; esac
"""
_NAMES = ("index-url", "extra-index-url", "find-links", "constraint", "trusted-host", "cert", "no-index")


def of_files(paths: Iterable[Path]) -> dict[str, str]:
    """Return what pip's configuration files say as the variables that pip has for it; a later file wins.

    Raises OSError, and ValueError for a file that cannot be read as such.
    """
    found: dict[str, str] = {}
    for path in paths:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except configparser.Error:  # whose message may quote a line, and with it a password
            raise ValueError(f"{path} is not a configuration file that pip can read") from None
        for section in ("global", "install"):
            values = dict(parser[section]) if parser.has_section(section) else {}
            for name in _NAMES:
                value = values.get(name, values.get(name.replace("-", "_"), ""))
                if value:
                    found[f"PIP_{name.upper().replace('-', '_')}"] = " ".join(value.split())
    return found
