"""The process of an experiment in a cloud of its own, which `workbench.failures.own_cloud` starts and reads.

It prints a JSON object a line: each step, then the result or the error.
"""

import json
import os
import signal
import sys
import threading

from workbench.errors import WorkbenchError
from workbench.local_cloud import OWNER_VARIABLE


def main() -> int:
    """Bring the mode about that the first argument names, in the cloud of WORKBENCH_STATE_DIR; say what was seen."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    said, sys.stdout = sys.stdout, sys.stderr  # whatever else prints must not stand between the lines

    def say(**told: object) -> None:
        said.write(json.dumps(told) + "\n")
        said.flush()

    from workbench.session import connect  # here: the SDK reads the environment when it is imported

    try:
        with connect("local") as wb:
            result = wb.failures.run_here(sys.argv[1], on_step=lambda step: say(step=step))
    except WorkbenchError as error:
        say(error=str(error))
        return 1
    say(result=result.model_dump(mode="json"))
    return 0


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
