"""What an action has come to."""

from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.contract.events import Usage


@dataclass(frozen=True)
class Performed:
    """What `done` says of an action: its result, and what of the model it used."""

    result: JsonValue = None
    usage: Usage | None = None
