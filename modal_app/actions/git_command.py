"""Makes git commands that ignore the settings of the repository they run in, and use the endpoint's instead. Pure.

A repository is hostile input: its settings can name programs (filters, monitors, diffs, hooks), redirect the work tree
and change what commands print. They cannot be overridden one by one, because there is no complete list of them. But git
reads them from what it calls the common directory. So each command gets a common directory of its own, with a config
file of the endpoint's and links to everything else in the real one. Only the formats of objects and references are
copied from the repository's config, since it cannot be read without them.
"""

import shlex

from modal_app.sandboxes import git_defaults

_WORKSPACE = "/workspace"
_COMMON = "/tmp/.git-common"  # noqa: S108  # a path in the sandbox, which is this run's alone; made anew each time
_SHARED = ("info", "logs", "modules", "objects", "packed-refs", "refs", "reftable", "shallow", "worktrees")
_CONFIG = """
[core]
\tbare = false
\thooksPath = /dev/null
\tlogAllRefUpdates = true
\tquotePath = false
\tuseReplaceRefs = false
[diff]
\tignoreSubmodules = dirty
[gc]
\tauto = 0
[maintenance]
\tauto = false
"""
# $1 is the endpoint's config. A `.git` that is a file names the real directory; a work tree's directory names, in its
# `commondir`, the one that it shares.
_CALL = f"""
config=$1; shift
repository={_WORKSPACE}/.git
if [ -f "$repository" ]; then
  named=$(sed -n 's/^gitdir: //p' "$repository")
  case $named in /*) repository=$named ;; *) repository={_WORKSPACE}/$named ;; esac
fi
shared=$repository
if [ -f "$repository/commondir" ]; then
  named=$(cat "$repository/commondir")
  case $named in /*) shared=$named ;; *) shared=$repository/$named ;; esac
fi
rm -rf {_COMMON} && mkdir {_COMMON} || exit 128
printf %s "$config" > {_COMMON}/config
for format in objectFormat refStorage; do
  value=$(git config --file "$shared/config" --no-includes --get "extensions.$format" 2>/dev/null)
  case $value in
    '' | *[!a-z0-9]*) ;;
    *) printf '[core]\\n\\trepositoryFormatVersion = 1\\n[extensions]\\n\\t%s = %s\\n' "$format" "$value" ;;
  esac
done >> {_COMMON}/config
[ ! -e "$shared/HEAD" ] || mkdir -p "$shared/logs"
for name in {" ".join(_SHARED)}; do ln -s "$shared/$name" {_COMMON}/; done
export GIT_DIR="$repository" GIT_COMMON_DIR={_COMMON} GIT_WORK_TREE={_WORKSPACE}
exec git --no-pager --literal-pathspecs "$@"
"""
# Settings for the commands that git itself starts in repositories nested in this one.
_BELOW = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*")

ENV = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_EDITOR": "true",
    "GIT_AUTHOR_NAME": git_defaults.NAME,
    "GIT_AUTHOR_EMAIL": git_defaults.EMAIL,
    "GIT_COMMITTER_NAME": git_defaults.NAME,
    "GIT_COMMITTER_EMAIL": git_defaults.EMAIL,
}
"""The environment that every one of these commands must be run with."""


def git(*arguments: str) -> tuple[str, ...]:
    """The arguments of a process that runs git with `arguments` in the workspace's repository."""
    return ("sh", "-c", _CALL, "sh", _CONFIG, *_BELOW, *arguments)


def git_init() -> tuple[str, ...]:
    """The arguments of a process that makes the workspace a repository; an existing one stays as it is."""
    return ("git", *_BELOW, "init", f"--initial-branch={git_defaults.BRANCH}", "--template=", _WORKSPACE)


def putting_back(head: str | None) -> tuple[str, ...]:
    """The arguments of a process that sets HEAD to `head` if it differs; with None, back to no commit at all."""
    asked = shlex.join(git("rev-parse", "--verify", "--quiet", "HEAD"))
    moved = shlex.join(git("update-ref", *(("-d", "HEAD") if head is None else ("HEAD", head))))
    return ("sh", "-c", f'[ "$({asked})" = "$1" ] || {moved}', "sh", head or "")
