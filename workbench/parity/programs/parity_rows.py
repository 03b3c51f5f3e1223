"""How the suite's programs declare their rows. Beside them in their containers, too: standard library only."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

NOT_DOCUMENTED = "(not documented)"
"""The expectation of a row whose outcome Modal's documentation leaves open: the two targets are compared only."""


@dataclass(frozen=True)
class Row:
    """A behaviour: what it is, where Modal documents it, and what is expected to be observed.

    `look` makes it happen and returns what it has seen, as JSON can hold it. `differs` is the row of the local cloud's
    list of differences that says why a local cloud is known to do otherwise. `seconds` is how long it may take.
    """

    area: str
    name: str
    behaviour: str
    source: str
    expects: Any
    look: Callable[[], Any]
    differs: str
    seconds: int


_OURS = f"parity-{os.environ.get('WORKBENCH_PARITY_RUN', 'alone')}"
ROWS: dict[tuple[str, str], Row] = {}


def row(
    behaviour: str, *, source: str, expects: Any = NOT_DOCUMENTED, differs: str = "", seconds: int = 60
) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Declare a row; its name is the decorated function's. `source` is a page below https://modal.com/docs/."""

    def declare(look: Callable[[], Any]) -> Callable[[], Any]:
        area, name = look.__module__.removeprefix("parity_"), look.__name__.replace("_", "-")
        assert (area, name) not in ROWS, name
        ROWS[area, name] = Row(area, name, behaviour, source, expects, look, differs, seconds)
        return look

    return declare


def fresh(what: str) -> str:
    """A name that nobody uses; the rows that make something of that name remove it again."""
    return f"{_OURS}-{what}-{uuid.uuid4().hex[:8]}"


def clean() -> None:
    """Remove what rows of this run have made and left."""
    import modal

    for kind in (modal.Volume, modal.Dict, modal.Secret):
        for one in kind.objects.list():
            if str(one.name).startswith(f"{_OURS}-"):
                kind.objects.delete(one.name, allow_missing=True)


def raised(call: Callable[[], Any], *, hide: str = "") -> dict[str, str]:
    """What a call raises, by its class and its message, in which `hide` becomes NAME."""
    try:
        got = call()
    except Exception as error:  # whatever it is, it is what was observed
        message = " ".join(str(error).split())
        return {"raises": type(error).__name__, "says": message.replace(hide, "NAME") if hide else message}
    return {"returns": str(got)[:200]}


def raises(call: Callable[[], Any]) -> str:
    """The class of what a call raises; "nothing" where it returns."""
    return raised(call).get("raises", "nothing")


def until(condition: Callable[[], Any], *, seconds: float) -> Any:
    """Ask until something true comes; the last answer, when `seconds` are over."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@contextmanager
def removed(remove: Callable[[], Any]) -> Iterator[None]:
    """Remove what the block makes, whatever becomes of it."""
    try:
        yield
    finally:
        remove()
