"""How git is called in a workspace: with a configuration of ours alone, whatever stands in the repository's own. Pure.

A repository is a hostile input: its settings name programs (filters, monitors, diffs, hooks), redirect the work tree
and change what commands print. None of them is overridden here by its name, because there is no list of them: git reads
its settings from the directory that it calls common, so a command gets one that holds ours, and links to the rest.
Only the formats of objects and references, without which a repository cannot be read, are taken over.
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
# $1 is our configuration. A `.git` that is a file names the directory, and that of a work tree the one it shares.
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
# For the commands that git itself starts in repositories inside this one.
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
"""What every command needs in its environment."""


def git(*arguments: str) -> tuple[str, ...]:
    """The command that runs git in the workspace's repository."""
    return ("sh", "-c", _CALL, "sh", _CONFIG, *_BELOW, *arguments)


def git_init() -> tuple[str, ...]:
    """The command that makes the workspace a repository; one that is there already is left as it is."""
    return ("git", *_BELOW, "init", f"--initial-branch={git_defaults.BRANCH}", "--template=", _WORKSPACE)


def putting_back(head: str | None) -> tuple[str, ...]:
    """The command that puts HEAD back to where it was, if it has moved."""
    asked = shlex.join(git("rev-parse", "--verify", "--quiet", "HEAD"))
    moved = shlex.join(git("update-ref", *(("-d", "HEAD") if head is None else ("HEAD", head))))
    return ("sh", "-c", f'[ "$({asked})" = "$1" ] || {moved}', "sh", head or "")
