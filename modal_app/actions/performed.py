"""What an action has come to."""

from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.contract.errors import ContractError


@dataclass(frozen=True)
class Performed:
    """What an action says of itself: its result; `error` when it failed after that."""

    result: JsonValue = None
    error: ContractError | None = None
