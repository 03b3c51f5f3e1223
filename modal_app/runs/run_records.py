"""The records of runs, and the idempotency keys by which a repeated request finds the run of the first one.

Creating a run's record is the one atomic step that decides which container executes it: the one whose record is first.
"""

import hashlib
import secrets
import time
from typing import Any, Literal

import modal
from pydantic import BaseModel, ConfigDict

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import ErrorEvent, TerminalEvent
from modal_app.contract.proof import Bundle, EventFacts
from modal_app.contract.requests import Request, dump_request
from modal_app.runs.shared_state import SharedState

State = Literal["open", "ended", "archived", "expired"]


class RunRecord(BaseModel):
    """What every container can know of a run.

    `owner` is the id of the owner that executes it, `body_sha256` the digest of its request. `submission` tells apart
    requests with the same key that arrive at the same moment. `outcome` is "done" or the error's code, empty while the
    run is open; `ended_at_ms` is then 0.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: str
    user_id: str
    project_id: str
    action: str
    body_sha256: str
    owner: str
    accepted_at_ms: int
    submission: str = ""
    state: State = "open"
    outcome: str = ""
    ended_at_ms: int = 0

    def bundle(self, terminal: TerminalEvent, events: EventFacts, **facts: Any) -> Bundle:
        """The proof for the run's archive: the record, its end, and the further `facts` (fields of Bundle) given."""
        known = self.model_dump(include=set(Bundle.model_fields) - {"outcome", "ended_at_ms"})
        message = terminal.message if isinstance(terminal, ErrorEvent) else ""
        return Bundle(
            **known, outcome=terminal.outcome, message=message, ended_at_ms=terminal.at_ms, events=events, **facts
        )

    @property
    def under_way(self) -> bool:
        """Whether the run's archive is not written yet."""
        return self.state in ("open", "ended")

    def expired(self, keep_s: float) -> bool:
        """Whether the run is no longer kept: `keep_s` seconds have passed since its end."""
        return self.state == "expired" or (not self.under_way and _now_ms() > self.ended_at_ms + keep_s * 1000)


class _Claim(BaseModel):
    run_id: str
    body_sha256: str


def new_run_id() -> str:
    """A UUID of version 7 (RFC 9562): the first 48 bits are the time, so archives sort by it."""
    value = _now_ms() << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def body_digest(request: Request) -> str:
    """The SHA-256 of a parsed request, in hexadecimal: equal for requests that mean the same."""
    return hashlib.sha256(dump_request(request)).hexdigest()


class Records:
    """Reads and writes records, keys and the set of runs under way. Every method raises platform errors."""

    def __init__(self, state: SharedState) -> None:
        self._dict = state.records
        self._under_way = state.under_way

    async def claim(self, key: str, request: Request) -> tuple[str, bool]:
        """The run id of an idempotency key, and whether it is new, or the first request with this key was given it.

        A key belongs to one user and project; the same key of another project means another run.
        Raises ContractError `idempotency_conflict` when the first request had another body.
        """
        mine = _Claim(run_id=new_run_id(), body_sha256=body_digest(request))
        kept = _claimed(await put_first(self._dict, _key_name(key, request), mine.model_dump_json()), request)
        return kept, kept == mine.run_id

    async def claimed(self, key: str, request: Request) -> str | None:
        """The run id that an idempotency key was given; None for a key that is new, which stays so.

        Raises ContractError `idempotency_conflict` when the first request had another body.
        """
        kept = await self._dict.get.aio(_key_name(key, request))
        return None if kept is None else _claimed(kept, request)

    async def create(self, record: RunRecord) -> RunRecord:
        """Create a run's record, and return the one that stands: another container's, if that came first."""
        await self._under_way.put.aio(record.run_id, record.owner)
        kept = await put_first(self._dict, _name(record.run_id), record.model_dump_json())
        return RunRecord.model_validate_json(kept)

    async def get(self, run_id: str) -> RunRecord | None:
        """A run's record; None when there is no such run."""
        found = await self._dict.get.aio(_name(run_id))
        return None if found is None else RunRecord.model_validate_json(found)

    async def ended(self, record: RunRecord, outcome: str) -> RunRecord:
        """Record that the run's terminal event is in the log; `outcome` is "done" or the error's code."""
        return await self._save(record, state="ended", outcome=outcome, ended_at_ms=_now_ms())

    async def archived(self, record: RunRecord) -> RunRecord:
        """Record that the run's archive is written and committed, and remove the run from those under way."""
        kept = await self._save(record, state="archived")
        await self.settle(record.run_id)
        return kept

    async def expire(self, record: RunRecord) -> RunRecord:
        """Record that the run is no longer kept."""
        return await self._save(record, state="expired")

    async def settle(self, run_id: str) -> None:
        """Remove a run from those under way. Idempotent."""
        await self._under_way.pop.aio(run_id, None)

    async def under_way(self) -> list[str]:
        """The ids of the runs whose archive is not written yet."""
        return [run_id async for run_id in self._under_way.keys.aio()]

    async def _save(self, record: RunRecord, **changes: object) -> RunRecord:
        kept = record.model_copy(update=changes)
        await self._dict.put.aio(_name(record.run_id), kept.model_dump_json())
        return kept


async def put_first(shared: modal.Dict, key: str, value: str) -> str:
    """Put a value under a key unless it has one already; returns the value that stands.

    The value is read back even though the platform says that the key was taken: when the SDK repeats a request, the
    value that is in the way may be the one that its first attempt has put.
    """
    if await shared.put.aio(key, value, skip_if_exists=True):
        return value
    found = await shared.get.aio(key)
    if found is None:  # the value that was there has expired just now
        await shared.put.aio(key, value)
        return value
    return str(found)


def _key_name(key: str, request: Request) -> str:
    return "key/" + hashlib.sha256(f"{request.user_id}/{request.project_id}/{key}".encode()).hexdigest()


def _claimed(claim: str, request: Request) -> str:
    """The run id of a stored claim; raises ContractError `idempotency_conflict` when it is of another body."""
    kept = _Claim.model_validate_json(claim)
    if kept.body_sha256 != body_digest(request):
        message = f"run {kept.run_id} was started with this Idempotency-Key and another body"
        raise ContractError(ErrorCode.IDEMPOTENCY_CONFLICT, message, run_id=kept.run_id)
    return kept.run_id


def _name(run_id: str) -> str:
    return f"run/{run_id}"


def _now_ms() -> int:
    return int(time.time() * 1000)
