"""The record of each run, and the keys by which a repeated request finds the run that the first one made.

A run is whoever's record came first: `create` is the one atomic step after which exactly one container executes it.
"""

import hashlib
import secrets
import time
from typing import Any, Literal

import modal
from pydantic import BaseModel, ConfigDict

from modal_app.contract.errors import ContractError, ErrorCode
from modal_app.contract.events import TerminalEvent
from modal_app.contract.proof import Bundle, EventFacts
from modal_app.contract.requests import Request, dump_request
from modal_app.runs.shared_state import SharedState

State = Literal["open", "ended", "archived", "expired"]


class RunRecord(BaseModel):
    """What is known of a run everywhere. `outcome` is "done" or the code of its error, once it has ended."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: str
    user_id: str
    project_id: str
    action: str
    body_sha256: str
    owner: str
    accepted_at_ms: int
    state: State = "open"
    outcome: str = ""
    ended_at_ms: int = 0

    def bundle(self, terminal: TerminalEvent, events: EventFacts, **facts: Any) -> Bundle:
        """What the run's archive says: what is known of every run, and the `facts` that its closer has besides."""
        known = self.model_dump(include=set(Bundle.model_fields) - {"outcome", "ended_at_ms"})
        return Bundle(**known, outcome=terminal.outcome, ended_at_ms=terminal.at_ms, events=events, **facts)

    @property
    def under_way(self) -> bool:
        """Whether its archive is still to come."""
        return self.state in ("open", "ended")

    def expired(self, keep_s: float) -> bool:
        """Whether it is no longer kept."""
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
    """What two requests with the same meaning have in common."""
    return hashlib.sha256(dump_request(request)).hexdigest()


class Records:
    """Reads and writes records. Platform errors are raised as they come."""

    def __init__(self, state: SharedState) -> None:
        self._dict = state.records
        self._under_way = state.under_way

    async def claim(self, key: str, request: Request) -> str:
        """The run id that belongs to an idempotency key: a new one, or that of the request that came first.

        A key belongs to one user and project: what others call theirs by the same key is another run.
        Raises ContractError `idempotency_conflict` when that one had another body.
        """
        mine = _Claim(run_id=new_run_id(), body_sha256=body_digest(request))
        name = "key/" + hashlib.sha256(f"{request.user_id}/{request.project_id}/{key}".encode()).hexdigest()
        kept = _Claim.model_validate_json(await put_first(self._dict, name, mine.model_dump_json()))
        if kept.body_sha256 != mine.body_sha256:
            message = f"run {kept.run_id} was started with this Idempotency-Key and another body"
            raise ContractError(ErrorCode.IDEMPOTENCY_CONFLICT, message, run_id=kept.run_id)
        return kept.run_id

    async def create(self, record: RunRecord) -> RunRecord:
        """Make a run; returns the record that stands, which is another's when that one was first."""
        await self._under_way.put.aio(record.run_id, record.owner)
        kept = await put_first(self._dict, _name(record.run_id), record.model_dump_json())
        return RunRecord.model_validate_json(kept)

    async def get(self, run_id: str) -> RunRecord | None:
        """A run's record, or None."""
        found = await self._dict.get.aio(_name(run_id))
        return None if found is None else RunRecord.model_validate_json(found)

    async def ended(self, record: RunRecord, outcome: str) -> RunRecord:
        """Note that the terminal event is in the log."""
        return await self._save(record, state="ended", outcome=outcome, ended_at_ms=_now_ms())

    async def archived(self, record: RunRecord) -> RunRecord:
        """Note that the archive is written and committed."""
        kept = await self._save(record, state="archived")
        await self.settle(record.run_id)
        return kept

    async def expire(self, record: RunRecord) -> RunRecord:
        """Note that the run is no longer kept."""
        return await self._save(record, state="expired")

    async def settle(self, run_id: str) -> None:
        """Strike a run off the list of those under way. Idempotent."""
        await self._under_way.pop.aio(run_id, None)

    async def under_way(self) -> list[str]:
        """The ids of the runs whose archive is not written yet."""
        return [run_id async for run_id in self._under_way.keys.aio()]

    async def _save(self, record: RunRecord, **changes: object) -> RunRecord:
        kept = record.model_copy(update=changes)
        await self._dict.put.aio(_name(record.run_id), kept.model_dump_json())
        return kept


async def put_first(shared: modal.Dict, key: str, value: str) -> str:
    """Put a value unless the key has one; returns the one that stands.

    Read back even when it was not ours, by the answer: a request that the SDK repeats finds its own first attempt.
    """
    if await shared.put.aio(key, value, skip_if_exists=True):
        return value
    found = await shared.get.aio(key)
    if found is None:  # it has expired just now
        await shared.put.aio(key, value)
        return value
    return str(found)


def _name(run_id: str) -> str:
    return f"run/{run_id}"


def _now_ms() -> int:
    return int(time.time() * 1000)
