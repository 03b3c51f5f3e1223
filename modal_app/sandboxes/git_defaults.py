"""Git's default name, e-mail and branch in a project, for a job's own git commands and for the `git` action alike.

For jobs they stand in git's system configuration, which has the lowest rank: the settings of a repository and of the
job itself take precedence.
"""

NAME = "workbench"
EMAIL = "workbench@localhost"
BRANCH = "main"
PATH = "/tmp/.gitconfig-system"  # noqa: S108  # a path in the sandbox, which is this run's alone
CONFIG = f"[user]\n\tname = {NAME}\n\temail = {EMAIL}\n[init]\n\tdefaultBranch = {BRANCH}\n"
ENV = {"GIT_CONFIG_SYSTEM": PATH}
