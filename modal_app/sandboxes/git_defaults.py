"""What git falls back on in a project, whoever runs it there: a job's program or an action of ours.

For jobs it is git's system configuration, the lowest of all: what a repository or a job sets for itself wins.
"""

NAME = "workbench"
EMAIL = "workbench@localhost"
BRANCH = "main"
PATH = "/tmp/.gitconfig-system"  # noqa: S108  # a path in the sandbox, which is this run's alone
CONFIG = f"[user]\n\tname = {NAME}\n\temail = {EMAIL}\n[init]\n\tdefaultBranch = {BRANCH}\n"
ENV = {"GIT_CONFIG_SYSTEM": PATH}
