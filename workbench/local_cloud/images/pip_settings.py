"""Gives uv, which takes pip's place in builds, what configures pip: uv itself reads nothing of that.

The older names of uv's variables are set, since the options of a command win over these, as they do with pip.
"""

import configparser
from collections.abc import Iterable
from pathlib import Path

# A shell's lines, to be put before `exec uv pip "$@"`: they see what a step sets for one command, too. The words are
# pip's; `--no-index` goes right behind the subcommand, since uv's other ones do not know it, and words behind `--` are
# no options; a word before it that is no subcommand may be an option's value. All variables of a shell are a step's
# own, so that those here have a prefix, and are gone afterwards.
FOR_UV = """\
[ -n "${UV_DEFAULT_INDEX-}${UV_INDEX_URL-}" ] || export UV_INDEX_URL="${PIP_INDEX_URL-}"
[ -n "${UV_INDEX_URL-}" ] || unset UV_INDEX_URL
[ -n "${UV_INDEX-}${UV_EXTRA_INDEX_URL-}" ] || export UV_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL-}"
[ -n "${UV_EXTRA_INDEX_URL-}" ] || unset UV_EXTRA_INDEX_URL
[ -n "${UV_CONSTRAINT-}" ] || export UV_CONSTRAINT="${PIP_CONSTRAINT-}"
[ -n "${UV_CONSTRAINT-}" ] || unset UV_CONSTRAINT
[ -n "${UV_INSECURE_HOST-}" ] || export UV_INSECURE_HOST="${PIP_TRUSTED_HOST-}"
[ -n "${UV_INSECURE_HOST-}" ] || unset UV_INSECURE_HOST
[ -n "${SSL_CERT_FILE-}" ] || [ -z "${PIP_CERT-}" ] || export SSL_CERT_FILE="$PIP_CERT"
if [ -n "${UV_FIND_LINKS-}" ]; then :
elif [ -z "${PIP_FIND_LINKS-}" ]; then unset UV_FIND_LINKS
else export UV_FIND_LINKS="$(set -f; set -- $PIP_FIND_LINKS; IFS=,; printf %s "$*")"
fi
case "${PIP_NO_INDEX-}" in [1tTyY]*|[oO][nN])
  __modal_left=$#
  __modal_command=
  while [ "$__modal_left" -gt 0 ]; do
    __modal_word=$1
    shift
    set -- "$@" "$__modal_word"
    __modal_left=$((__modal_left - 1))
    case "$__modal_command:$__modal_word" in
      :install) __modal_command=install; set -- "$@" --no-index ;;
      :--|:check|:compile|:debug|:freeze|:help|:list|:show|:sync|:tree|:uninstall) __modal_command=other ;;
    esac
  done
  unset __modal_left __modal_command __modal_word ;;
esac
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
