"""The command that makes a sandbox ready: Modal runs it as root, the local cloud as a user who is none."""

import os
import subprocess
import time

from modal_app.sandboxes import git_defaults, project_sandbox

_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


def _probe(*before: str) -> tuple[bool, int, float]:
    settings = (git_defaults.CONFIG, "/dev/null")
    command = [
        *before,
        "sh",
        "-c",
        project_sandbox.PROBE,
        "sh",
        project_sandbox.UNLOCK,
        *settings,
        *project_sandbox.AS_JOB,
    ]
    said = project_sandbox.PROBED.fullmatch(subprocess.run(command, check=True, capture_output=True).stdout)
    assert said is not None
    return said[1] is not None, int(said[2]), float(said[4])


def test_root_becomes_the_job_s_user_and_others_stay_who_they_are() -> None:
    if os.geteuid() == 0:
        assert _probe()[:2] == (True, project_sandbox.JOB_UID)
        assert _probe(*_NOBODY)[:2] == (False, 65534)
    else:
        assert _probe()[:2] == (False, os.geteuid())


def test_the_sandbox_s_clock_is_told() -> None:
    assert abs(_probe()[2] - time.time()) < 60
