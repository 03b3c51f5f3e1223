"""What a client sees of one job at one endpoint: every event with its moment, and how it ended."""

import time
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SideName = Literal["naive", "hardened"]
End = Literal["done", "error", "refused", "cut", "silent", "left"]


class Seen(BaseModel):
    """One event. `at_s` is in seconds since the request was sent.

    `what` is `status`, `text`, `done` or `error`; `retry` when the model is asked again, and `message` for what else
    the Claude CLI told. A text may be of a `block`, and may take the place of another one, which it `replaces`.
    """

    model_config = ConfigDict(frozen=True)

    at_s: float
    what: str
    text: str = ""
    block: str = ""
    replaces: str = ""


class Observation(BaseModel):
    """One request from its beginning to its end.

    `ended` is `done` or `error` as the endpoint said, `refused` for an answer that is no stream, `cut` for a stream
    that ended without saying how, `silent` when nothing more came in the time that was given. `code` is the error's
    code, or the HTTP status of a refusal. `ended_at` is in Unix seconds. `run_id` and `last_id` are the ids of the run
    and of the last event, where the endpoint gives such ids. A client that left by itself saw no end: `left`.
    """

    model_config = ConfigDict(frozen=True)

    side: SideName
    events: tuple[Seen, ...]
    ended: End
    code: str = ""
    exit_code: int | None = None
    result: str = ""
    session: str = ""
    run_id: str = ""
    last_id: str = ""
    took_s: float
    ended_at: float = Field(default_factory=time.time)

    @property
    def began_at(self) -> float:
        """When the request was sent, in Unix seconds."""
        return self.ended_at - self.took_s

    @property
    def text(self) -> str:
        """What the job printed to stdout, or its model said, as it arrived; without what the endpoint took back."""
        void = {one.replaces for one in self.events if one.replaces}
        return "".join(
            one.text for one in self.events if one.what == "text" and (not one.block or one.block not in void)
        )

    def count(self, what: str) -> int:
        """How many events were this."""
        return sum(one.what == what for one in self.events)

    @property
    def first_text_s(self) -> float | None:
        """When the first output arrived, in seconds since the request; None when there was none."""
        return next((one.at_s for one in self.events if one.what == "text"), None)

    @property
    def last_text_s(self) -> float | None:
        """When the last output arrived, as `first_text_s`."""
        return next((one.at_s for one in reversed(self.events) if one.what == "text"), None)

    def __str__(self) -> str:
        """The end in words."""
        how = {
            "done": "said that it is done",
            "error": f"said error {self.code}",
            "refused": f"refused it ({self.code})",
            "cut": "ended without a word",
            "silent": "fell silent",
            "left": "was left by its client",
        }[self.ended]
        return how + (f", exit code {self.exit_code}" if self.exit_code is not None else "")
