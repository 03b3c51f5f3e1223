"""The processes of this machine, those in sandboxes included, as a test looks for them."""

import psutil


def naming(words: str) -> list[str]:
    """The command lines that these words are in.

    A process that forks and exits while we look may be missed, and its child, too; the second look sees the child.
    """
    return _naming(words) or _naming(words)


def _naming(words: str) -> list[str]:
    found = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in found if words in line]


def with_command(words: str) -> list[int]:
    """The ids of those whose command line is this."""
    found = psutil.process_iter(["pid", "cmdline"])
    return [one.info["pid"] for one in found if " ".join(one.info["cmdline"] or ()) == words]


def owners(*command: str) -> set[int]:
    """The users, outside, of the processes with exactly this command line."""
    running = psutil.process_iter(["cmdline", "uids"])
    return {each.info["uids"].real for each in running if each.info["cmdline"] == [*command]}
