#!/bin/sh
# modal 1.6.4 (the Python SDK)
#
# `Sandbox.wait()` and `Sandbox.returncode` are how a program learns what became of a sandbox. The protocol's result has
# a status of its own for each way in which a sandbox can end: among them that it could not be initialised, that the
# kernel killed it for its memory, that the platform failed, that it was idle for too long.
#
# Likely guess: wait() raises for the ways that are no end of the program's own, as it does for a timeout; or at least
# returncode is not 0 then.
# Seen: the functions behind both know two statuses, timeout and termination. Every other one passes without a word, and
# returncode is the result's exit code, which is 0 when the platform has set none: a sandbox that never ran its program
# looks like one that succeeded.
#
# Why it matters: wait() without an exception and a returncode of 0 are no proof that anything ran. Whoever needs to know
# has to ask the program for a sign of its own.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q modal==1.6.4
"$place/venv/bin/python" - <<'PYTHON'
from modal.exception import SandboxTimeoutError
from modal.sandbox._common import _result_returncode, raise_for_wait_result
from modal_proto import api_pb2

STATUS = api_pb2.GenericResult


def ends_as(status):
    result = STATUS(status=status)
    try:
        raise_for_wait_result("sb-1", result, raise_on_termination=True)
    except Exception as error:
        return f"{type(error).__name__}, returncode {_result_returncode(result)}"
    return f"returns, returncode {_result_returncode(result)}"


names = [
    "GENERIC_STATUS_TIMEOUT",
    "GENERIC_STATUS_TERMINATED",
    "GENERIC_STATUS_INIT_FAILURE",
    "GENERIC_STATUS_INTERNAL_FAILURE",
    "GENERIC_STATUS_KERNEL_OOM_KILL",
    "GENERIC_STATUS_IDLE_TIMEOUT",
]
seen = {name: ends_as(getattr(STATUS, name)) for name in names}
for name, what in seen.items():
    print(name, "->", what)
assert seen["GENERIC_STATUS_TIMEOUT"].startswith(SandboxTimeoutError.__name__)
assert seen["GENERIC_STATUS_TERMINATED"].startswith("SandboxTerminatedError")
assert {seen[name] for name in names[2:]} == {"returns, returncode 0"}
PYTHON
