"""Action `python`: runs a program from the request or the workspace, unbuffered, so that its output streams."""

from pydantic import JsonValue

from modal_app.actions.output import Output, failed
from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.requests import PythonRequest
from modal_app.sandboxes.project_sandbox import WORKSPACE, Job

_PROGRAM = "/tmp/job.py"  # noqa: S108  # a path in the sandbox, which is this run's alone
# The program's text comes first on stdin, because arguments are too short for it. `head` takes exactly its bytes, and
# the program reads the rest as its own stdin.
_WITH_CODE = 'head -c "$1" > "$2" && shift && exec python3 -u "$@"'
_ENV = {"PYTHONPATH": WORKSPACE}


async def run(request: PythonRequest, job: Job, output: Output) -> JsonValue:
    """Run the program; returns None. Raises ContractError `process_failed` unless it exits with 0."""
    stdin = request.stdin.encode()
    if request.code is None:
        argv = ["python3", "-u", f"{WORKSPACE}/{request.path}", *request.args]
    else:
        code = request.code.encode()
        argv = ["sh", "-c", _WITH_CODE, "sh", str(len(code)), _PROGRAM, *request.args]
        stdin = code + stdin
    exit_code = await job.exec(argv, stdin=stdin, env=_ENV, on_output=output, timeout_s=request.timeout_s)
    await output.flush()
    if exit_code != 0:
        message = failed("the program", exit_code)
        raise ContractError(ErrorCode.PROCESS_FAILED, message, exit_code=exit_code)
    return None
