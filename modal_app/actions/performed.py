"""The outcome of an action."""

from dataclasses import dataclass

from pydantic import JsonValue

from modal_app.contract.errors import ContractError


@dataclass(frozen=True)
class Performed:
    """The result of an action, and the error that it ended with, if any: a failed Claude job has an answer, too."""

    result: JsonValue = None
    error: ContractError | None = None
