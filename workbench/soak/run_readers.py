"""Readers of one run over plain HTTP: they leave and come back at random moments, and keep every byte that they get.

They do not use the workbench's client, because that would hide the failures that are looked for.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from modal_app.contract.events import TERMINAL, Event, UnknownEventError, parse_event
from modal_app.contract.order import Order, OrderError
from workbench.soak.soak_failures import SoakFailedError

_DEADLINE_S = 180.0
_STREAM = {"Accept": "text/event-stream"}
_PASSING = frozenset((408, 429, 500, 502, 503, 504))


@dataclass
class Reader:
    """One reader, with the bytes and events that it has received. Events are checked as they come."""

    name: str
    chance: random.Random
    data: bytearray = field(default_factory=bytearray)
    events: list[Event] = field(default_factory=list)
    connections: int = 0
    _order: Order = field(default_factory=Order)
    _part: bytearray = field(default_factory=bytearray)

    @property
    def ended(self) -> bool:
        """Whether the reader has received the terminal event."""
        return self._order.ended

    async def read(
        self, http: Callable[[], httpx.AsyncClient], ask: Callable[["Reader"], dict[str, Any]], *, patient: bool
    ) -> None:
        """Read until the terminal event, with as many connections as it takes. Raises SoakFailedError.

        `ask` gives the arguments of each HTTP request. A `patient` reader never leaves by itself.
        """
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await self._read(http, ask, patient=patient)
        except TimeoutError:
            last = f"{self.events[-1].type} {self._order.last_seq}" if self.events else "nothing"
            raise SoakFailedError(
                f"{self.name} had no end in {_DEADLINE_S:g} s; {self.connections} connections, the last event: {last}"
            ) from None

    async def _read(
        self, http: Callable[[], httpx.AsyncClient], ask: Callable[["Reader"], dict[str, Any]], *, patient: bool
    ) -> None:
        while not self.ended:
            asked = ask(self)
            headers = {**_STREAM, **asked.pop("headers", {})}
            if self._order.last_seq:
                headers["Last-Event-ID"] = str(self._order.last_seq)
            leaves_after = None if patient else self.chance.choice((None, 0, 1, 3, 10))
            try:
                async with http().stream(**asked, headers=headers) as response:
                    if response.status_code != 200:
                        await self._refused(response)
                        continue
                    self.connections += 1
                    await self._take(response, leaves_after)
            except (httpx.HTTPError, ConnectionError):
                await asyncio.sleep(self.chance.uniform(0.02, 0.3))
            self._part.clear()  # the beginning of an event that broke off
            if leaves_after is not None and not self.ended:
                await asyncio.sleep(self.chance.choice((0, 0.01, 0.2)))

    async def _refused(self, response: httpx.Response) -> None:
        body = (await response.aread()).decode(errors="replace")[:300]
        if response.status_code not in _PASSING:
            raise SoakFailedError(f"{self.name}: HTTP {response.status_code}: {body}")
        await asyncio.sleep(self.chance.uniform(0.05, 0.5))

    async def _take(self, response: httpx.Response, leaves_after: int | None) -> None:
        taken = 0
        async for piece in response.aiter_raw():
            self._part += piece
            while (end := self._part.find(b"\n\n")) >= 0:
                frame = bytes(self._part[: end + 2])
                del self._part[: end + 2]
                if frame.startswith(b":"):
                    continue
                self._event(frame)
                taken += 1
                if self.ended or (leaves_after is not None and taken > leaves_after):
                    return

    def _event(self, frame: bytes) -> None:
        try:
            event = parse_event(frame.partition(b"\ndata: ")[2].removesuffix(b"\n\n"))
            self._order.check(event)
        except (UnknownEventError, OrderError) as error:
            raise SoakFailedError(f"{self.name} after event {self._order.last_seq}: {error}") from error
        self.data += frame
        self.events.append(event)
        if isinstance(event, TERMINAL) != self._order.ended:
            raise SoakFailedError(f"{self.name}: the response ended as if complete, but without a terminal event")
