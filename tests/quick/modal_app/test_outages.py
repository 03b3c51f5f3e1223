"""Output is read on over an outage, at the byte where it broke off; what stays away, or has ended, is told."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import modal.exception
import pytest
from grpclib.exceptions import StreamTerminatedError

from modal_app.sandboxes import outages
from modal_app.sandboxes.outages import Outages

AWAY = modal.exception.ServiceError("away")


@dataclass
class Stream:
    """What the SDK's reader does: read again, it goes on behind what it has given, or raises again."""

    script: list[bytes | Exception]
    opened: int = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.opened += 1
        while self.script:
            following = self.script.pop(0)
            if isinstance(following, Exception):
                raise following
            yield following


@dataclass
class Seen:
    """The text that came, and what was told."""

    text: bytes = b""
    told: list[str] = field(default_factory=list)

    async def read(self, stream: Stream, *, within_s: float = 60, ended: bool = False) -> None:
        async def has_ended() -> bool:
            return ended

        async for chunk in Outages(within_s=within_s, ended=has_ended, tell=self.told.append).unbroken(stream):
            self.text += chunk


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "_PAUSE_S", 0.001)


@pytest.mark.parametrize(
    "script",
    [
        [b"a", AWAY, b"b"],
        [AWAY, AWAY, AWAY, b"ab"],
        [b"a", StreamTerminatedError("cut"), ConnectionError("no way"), b"b"],
        [b"ab", AWAY],  # it broke off behind the last byte
        [b"\xe5\x8c", AWAY, b"\x97"],  # in the middle of a character
    ],
    ids=["once", "from the beginning", "in three ways", "at the end", "in a character"],
)
async def test_every_byte_comes_once_and_the_outage_is_told_once(script: list[bytes | Exception]) -> None:
    expected = b"".join(one for one in script if isinstance(one, bytes))
    seen = Seen()
    await seen.read(Stream(script))
    assert seen.text == expected
    assert [one.split(":")[0] for one in seen.told] == ["the platform does not answer", "the platform answers again"]


async def test_what_is_never_away_is_not_spoken_of() -> None:
    seen, stream = Seen(), Stream([b"a", b"b"])
    await seen.read(stream)
    assert (seen.text, seen.told, stream.opened) == (b"ab", [], 1)


async def test_two_outages_are_told_twice() -> None:
    seen = Seen()
    await seen.read(Stream([AWAY, b"a", AWAY, AWAY, b"b"]))
    assert (seen.text, len(seen.told)) == (b"ab", 4)


async def test_what_stays_away_too_long_is_raised() -> None:
    seen, stream = Seen(), Stream([b"a", *[AWAY] * 100_000])
    with pytest.raises(modal.exception.ServiceError):
        await seen.read(stream, within_s=0.05)
    assert (seen.text, len(seen.told)) == (b"a", 1)


async def test_a_sandbox_that_has_ended_is_not_waited_for() -> None:
    seen, stream = Seen(), Stream([b"a", AWAY, b"never"])
    with pytest.raises(modal.exception.ServiceError):
        await seen.read(stream, ended=True)
    assert (seen.text, seen.told, stream.opened) == (b"a", [], 1)


@pytest.mark.parametrize(
    "error",
    [
        modal.exception.DataLossError("lost"),
        modal.exception.NotFoundError("gone"),
        modal.exception.InternalError("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_is_no_outage_is_raised_at_once(error: Exception) -> None:
    seen, stream = Seen(), Stream([b"a", error, b"never"])
    with pytest.raises(type(error)):
        await seen.read(stream)
    assert (seen.text, seen.told, stream.opened) == (b"a", [], 1)
