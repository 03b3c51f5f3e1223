"""What the commands share: options, error messages for known failures, and printing events for people or as JSON."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modal_app.contract.errors import ContractError
from modal_app.contract.events import DoneEvent, ErrorEvent, Event, Phase, StatusEvent, StreamEvent, dump_event
from workbench.cli.terminal_lines import TerminalLines
from workbench.errors import WorkbenchError
from workbench.machine import prerequisites
from workbench.text.plain_text import one_line

if TYPE_CHECKING:
    from rich.console import Console

TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        envvar="WORKBENCH_TARGET",
        help="Where to run: local, modal, or the URL of a deployed endpoint.",
    ),
]
AppNameOption = Annotated[
    str, typer.Option("--app-name", envvar="WORKBENCH_APP_NAME", help="Name of the deployed app.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@contextmanager
def failing() -> Iterator[None]:
    """Turn a known failure into one sentence on stderr and an exit code: 2 for a wrong request, 1 for the others."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt as asked:
        typer.echo("interrupted", err=True)
        raise typer.Exit(128 + (asked.args[0] if asked.args else signal.SIGINT)) from None
    except Exception as error:
        message = known(error)
        if message is None:
            raise
        typer.echo(f"error: {message}", err=True)
        wrong = isinstance(error, ContractError | prerequisites.PrerequisitesMissingError)
        raise typer.Exit(2 if wrong else 1) from None


def known(error: Exception) -> str | None:
    """A sentence for a failure that can be expected: of ours, of the file system, or of the target; None for others."""
    sdk = sys.modules.get("modal.exception")  # what was not imported has raised nothing
    match error:
        case ContractError():
            return error.message
        case OSError(strerror=str(reason), filename=str(name)):
            return f"{name}: {reason}"
        case WorkbenchError() | OSError():
            return str(error)
        case _ if sdk is not None and isinstance(error, sdk.AuthError):
            return "the target refuses this machine's token: `modal token new` makes another one"
        case _ if sdk is not None and isinstance(error, sdk.Error):
            return f"the target did not do what it was asked ({type(error).__name__}): {one_line(str(error))}"
    return None


def check_place(file: Path | None) -> None:
    """Refuse a file that could not be written at the end, before anything is done. Raises BadParameter."""
    if file is None:
        return
    directory = file.absolute().parent
    place = file if os.path.exists(file) else directory  # noqa: PTH110  # unlike Path's, it never raises
    if os.path.isdir(file) or not os.path.isdir(directory) or not os.access(place, os.W_OK):  # noqa: PTH112  # as above
        raise typer.BadParameter(f"{file} cannot be written: it needs a directory that is there and may be written")


def interruptible() -> None:
    """Turn every signal that asks this process to end into a KeyboardInterrupt, so that it ends what it has started.

    Ctrl-C then also works under a shell that makes its children ignore it; a process under `nohup` ignores SIGHUP.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def prepare(wanted: tuple[prerequisites.Prerequisite, ...] = prerequisites.RUN) -> None:
    """Check the prerequisites, and install those that are missing if allowed; raises PrerequisitesMissingError."""
    prerequisites.ensure(wanted, say=say)


def say(text: str) -> None:
    """Print a line of progress to stderr, since stdout is for results."""
    typer.echo(text, err=True)


def table_console(width: int) -> "Console":
    """A console for tables: as wide as the terminal, or `width` characters where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width)


def print_json(value: object) -> None:
    """Print a value as JSON on one line, and flush."""
    sys.stdout.write((value if isinstance(value, str) else json.dumps(value)) + "\n")
    sys.stdout.flush()


class EventPrinter:
    """Prints events as they arrive: as JSON lines, or as text in which the job's own output is indented."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lines = TerminalLines()
        self._void: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Print one event."""
        if self._as_json:
            print_json(dump_event(event))
            return
        match event:
            case StreamEvent():
                self._take_back(event)
                self._lines.take(event)
            case StatusEvent():
                if event.phase is not Phase.RUNNING:
                    self._lines.rest()  # the job has ended, or has not begun
                self._lines.between(f"{event.elapsed_ms:>7} ms  {event.phase:<17} {event.message}")
            case DoneEvent():
                self._lines.rest()
                self._lines.between(f"{event.elapsed_ms:>7} ms  done")
                if event.result is not None:
                    self._lines.between(typer.style(json.dumps(event.result, indent=2, ensure_ascii=False), dim=True))
            case ErrorEvent():
                hint = "; the same request may succeed later" if event.recoverable else ""
                self._lines.rest()
                self._lines.between(
                    typer.style(f"{event.elapsed_ms:>7} ms  error {event.code}: {event.message}{hint}", fg="red")
                )

    def rest(self) -> None:
        """Print the lines that have not ended: nothing more will come."""
        self._lines.rest()

    def _take_back(self, event: StreamEvent) -> None:
        """Print a line, once, when an event replaces words that are printed already."""
        if event.replaces is not None and event.replaces not in self._void:
            self._void.add(event.replaces)
            self._lines.rest("claude")
            self._lines.between(f"{'':>12}│ ↻ the model begins again: this replaces what it said last")
