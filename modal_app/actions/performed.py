"""What an action has come to."""

from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.contract.errors import ContractError
from modal_app.contract.events import Usage


@dataclass(frozen=True)
class Performed:
    """What an action says of itself: its result, and what of the model it used; `error` when it failed after that."""

    result: JsonValue = None
    usage: Usage | None = None
    error: ContractError | None = None
