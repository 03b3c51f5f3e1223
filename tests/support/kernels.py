"""Kernels of notebooks that are forks of an interpreter which has imported their modules (`tests.support.warm`)."""

import json
import os
from pathlib import Path

from tests.support import warm

_KERNEL = ("-m", "ipykernel_launcher", "-f", "{connection_file}")


def warm_kernels(directory: Path) -> dict[str, str]:
    """The variables with which programs that start the kernel `python3` start a warm one; a file of it is made.

    A program with other variables than this process has starts a kernel of its own.
    """
    kernel = directory / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = warm.words(*_KERNEL, env=os.environ)
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    return {"JUPYTER_PATH": str(directory)}
