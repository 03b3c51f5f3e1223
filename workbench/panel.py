"""Opens the workbench in a notebook: `workbench.open()`, and `%workbench` after `%load_ext workbench`."""

import shlex
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from modal_app import DEFAULT_APP_NAME
from workbench.session import Workbench, connect
from workbench.widgets.workbench_panel import WorkbenchPanel

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def open(target: str | Workbench = "local", *, app_name: str = DEFAULT_APP_NAME) -> WorkbenchPanel:  # noqa: A001  # workbench.open
    """Open a panel with everything in it, for a target as `connect` takes it, or for a connection made before.

    Raises TargetUnavailableError, which says what to do.
    """
    if isinstance(target, Workbench):
        return WorkbenchPanel(target)
    return WorkbenchPanel(connect(target, app_name=app_name), owns=True)


def magic(line: str) -> WorkbenchPanel:
    """Open the workbench: `%workbench [target] [app name]`, with the defaults of `workbench.open`."""
    words = shlex.split(line)
    if len(words) > 2:
        raise UsageError("%workbench takes a target (local, modal, or the URL of an endpoint) and an app's name")
    target, app_name = (*words, *("local", DEFAULT_APP_NAME)[len(words) :])
    return open(target, app_name=app_name)


def load_ipython_extension(shell: "InteractiveShell") -> None:
    """Register the magic `%workbench`; IPython calls this for `%load_ext workbench`."""
    shell.register_magic_function(magic, "line", "workbench")  # type: ignore[arg-type]  # its decorator's types are wrong
