"""Says from Python what the scripted model answers, to the prompts of one's own alone. Blocking calls.

The answers end with the block in which they were given, and in any case soon after this process has ended.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter

from workbench.deployment.model_backing import ModelUnavailableError, Scripted, running_model
from workbench.deployment.targets import Target
from workbench.machine.renewal import renewed
from workbench.scripted_model import Script, ScriptError, script_of

LEASE_S = 20.0
"""For how long answers outlive the process that has given them."""
_TIMEOUT_S = 20.0


class Answered(BaseModel):
    """One request that the answers were for. Times are in Unix seconds.

    `turn` counts the model's answers from 0, since the prompt. `told` says that this one was sent to its end, `fault`
    is the kind of the fault that struck, at `fault_at_s`. `streams` is false for a request without streaming.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    turn: int
    at_s: float
    streams: bool
    told: bool
    fault: str | None = None
    fault_at_s: float | None = None


_ANSWERED: TypeAdapter[tuple[Answered, ...]] = TypeAdapter(tuple[Answered, ...])
_IN_FORCE: TypeAdapter[dict[str, int]] = TypeAdapter(dict[str, int])


class Answers:
    """Answers in force, for prompts that hold their `marker`, and for what is asked in the course of those."""

    def __init__(self, service: Scripted, marker: str) -> None:
        self.marker = marker
        self._service = service
        self._last: tuple[Answered, ...] | None = None

    def prompt(self, text: str) -> str:
        """A prompt that gets these answers."""
        return f"{text} [{self.marker}]"

    @property
    def asked(self) -> tuple[Answered, ...]:
        """The newest requests that these answers were for, oldest first; also after the answers have ended.

        Raises ModelUnavailableError.
        """
        if self._last is not None:
            return self._last
        return _ANSWERED.validate_python(_ask(self._service, "GET", f"/answers/{self.marker}")["answered"])

    def struck(self, kind: str | None = None) -> int:
        """How often a fault has struck, of this kind or of any."""
        return sum(one.fault is not None and kind in (None, one.fault) for one in self.asked)

    def _renew(self) -> None:
        _ask(self._service, "POST", f"/answers/{self.marker}/renewal")

    def _end(self) -> None:
        self._last = ()
        with suppress(ModelUnavailableError):  # it is gone already
            self._last = _ANSWERED.validate_python(_ask(self._service, "DELETE", f"/answers/{self.marker}")["answered"])


class Model:
    """The model behind an endpoint on the local cloud, whose answers can be given. Made by `Workbench.model`.

    >>> with wb.model.answers(text="one two", fault=529) as answers:
    ...     run = wb.launch(project, "claude", prompt=answers.prompt("hello"))
    """

    def __init__(self, service: Callable[[], Scripted]) -> None:
        """`service` finds the scripted model; it raises ModelUnavailableError when there is none."""
        self._service = service

    @contextmanager
    def answers(self, *turns: str | Mapping[str, Any], script: Script | None = None, **turn: Any) -> Iterator[Answers]:
        """Have the model give these answers while the block lasts, to prompts with the marker that is given.

        Each of `turns` is a text, or the fields of a turn as in a script's YAML; a single turn may be given by its
        fields as keywords. A `script` takes their place, from `load_script` or `parse_script`.
        Raises ScriptError, which names the field that is wrong, ModelUnavailableError.
        """
        played = _script(turns, turn, script)
        service = self._service()
        body = {"script": played.model_dump(mode="json"), "lease_s": LEASE_S}
        answers = Answers(service, str(_ask(service, "POST", "/answers", body)["marker"]))
        try:
            with renewed(answers._renew, lease_s=LEASE_S, name="answers-lease"):
                yield answers
        finally:
            answers._end()


def in_force(target: Target) -> dict[str, int]:
    """The markers of all answers in force, whoever has given them, and how often each was asked; starts no model.

    Raises ModelUnavailableError.
    """
    service = running_model(target)
    if service is None:
        return {}
    return _IN_FORCE.validate_python(_ask(service, "GET", "/answers")["answers"])


def end_all(target: Target) -> None:
    """End all answers in force, whoever has given them; who asks with their prompts gets an error then.

    Raises ModelUnavailableError.
    """
    service = running_model(target)
    for marker in in_force(target):
        if service is not None:
            Answers(service, marker)._end()


def _script(turns: tuple[str | Mapping[str, Any], ...], turn: Mapping[str, Any], script: Script | None) -> Script:
    if sum(map(bool, (turns, turn, script))) != 1:
        raise ScriptError("give turns, or the fields of one, or a script, and one of these alone")
    if script is not None:
        return script
    given = [{"text": one} if isinstance(one, str) else dict(one) for one in turns] or [dict(turn)]
    return script_of({"turns": given})


def _ask(service: Scripted, method: str, path: str, body: Any = None) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {service.control}"}
    try:
        answer = httpx.request(
            method, service.url + path, json=body, headers=headers, timeout=_TIMEOUT_S, trust_env=False
        )
        told: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ModelUnavailableError(f"the scripted model does not answer ({type(error).__name__})") from None
    if answer.status_code == 400:
        raise ScriptError(str(told.get("error")))
    if not answer.is_success:
        raise ModelUnavailableError(str(told.get("error", f"the scripted model answered HTTP {answer.status_code}")))
    return told
