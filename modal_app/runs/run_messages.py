"""Messages to the owner of a run from other containers: cancel the run; a reader reads it here; that reader has left.

Each owner has a partition of one queue, from which it alone takes. A message to a dead owner expires there.
"""

import asyncio
import queue
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from modal_app.runs.shared_state import SharedState
from modal_app.sandboxes.platform_errors import PLATFORM_ERRORS

_log = structlog.get_logger(__name__)

_WAIT_S = 45.0
_RETRY_S = 0.5
_AT_ONCE = 100
_TTL_S = 600
_PUT_S = 5.0


class Message(BaseModel):
    """One message about the run `run_id`.

    `cancel` asks to cancel it. `reading` says that the reader with the id `reader` is there for `for_s` seconds from
    now, `left` that this reader has gone.
    """

    model_config = ConfigDict(frozen=True)

    op: Literal["cancel", "reading", "left"]
    run_id: str
    reader: str = ""
    for_s: float = 0


class Control:
    """Sends messages to owners, and receives those to an owner."""

    def __init__(self, state: SharedState) -> None:
        self._queue = state.control

    async def send(self, owner: str, message: Message) -> None:
        """Put a message into an owner's partition. Platform errors are raised."""
        await self._queue.put.aio(message.model_dump_json(), partition=owner, timeout=_PUT_S, partition_ttl=_TTL_S)

    async def receive(self, owner: str) -> list[Message]:
        """Wait for messages to this owner and take them.

        Returns an empty list when none came for 45 seconds, or when the platform fails. Broken messages are skipped.
        """
        try:
            found = await self._queue.get_many.aio(_AT_ONCE, partition=owner, timeout=_WAIT_S)
        except queue.Empty:
            return []
        except PLATFORM_ERRORS as error:
            _log.warning("control.receive_failed", reason=type(error).__name__)
            await asyncio.sleep(_RETRY_S)
            return []
        messages = []
        for one in found:
            try:
                messages.append(Message.model_validate_json(one))
            except ValidationError:
                _log.error("control.broken_message")
        return messages
