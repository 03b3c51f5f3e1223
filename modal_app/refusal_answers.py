"""The HTTP response for a request that is refused, in the contract's form `{"error", "code", "recoverable"}`."""

from collections.abc import Mapping

from fastapi.responses import JSONResponse

from modal_app.contract.errors import ContractError


def refusal(error: ContractError, *, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response for an error, with the status of its code; `run_id` is included when it is about a run."""
    content = {"error": error.message, "code": str(error.code), "recoverable": error.recoverable}
    if error.run_id is not None:
        content["run_id"] = error.run_id
    return JSONResponse(content, error.status, headers={"Cache-Control": "no-store", **(headers or {})})
