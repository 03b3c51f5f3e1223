"""Answers that are no run's: why a request was refused, in the one form that the contract has for it."""

from collections.abc import Mapping

from fastapi.responses import JSONResponse

from modal_app.contract.errors import ContractError


def refusal(error: ContractError, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that an error becomes; `run_id` is there when it is about a run."""
    content = {"error": error.message, "code": str(error.code), "recoverable": error.recoverable}
    if error.run_id is not None:
        content["run_id"] = error.run_id
    return JSONResponse(content, error.status, headers={"Cache-Control": "no-store", **(headers or {})})
