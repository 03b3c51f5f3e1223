"""The processes of this machine, those in sandboxes included, as a test looks for them."""

import psutil


def with_command(words: str) -> list[int]:
    """The ids of those whose command line is this."""
    found = psutil.process_iter(["pid", "cmdline"])
    return [one.info["pid"] for one in found if " ".join(one.info["cmdline"] or ()) == words]
