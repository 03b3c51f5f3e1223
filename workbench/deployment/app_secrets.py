"""An app's two secrets on its target, and this machine's copies of them, in files that only their owner can read.

The endpoint's holds what callers must send and the key that signs runs' tokens, the gateway's the same key and that of
the model's service. Modal does not give a stored secret back, so the copies are what is known of them.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import modal
from modal.exception import AlreadyExistsError
from modal.exception import Error as ModalError

from workbench.deployment import model_backing
from workbench.deployment.model_backing import Backing, Scripted
from workbench.deployment.targets import Target
from workbench.errors import WorkbenchError
from workbench.machine import private_files

SECRET_VARIABLE = "WORKBENCH_SECRET"  # noqa: S105  # the name of the variable, not its value
PREVIOUS_VARIABLE = "WORKBENCH_SECRET_PREVIOUS"  # see above
TOKEN_SECRET_VARIABLE = "WORKBENCH_MODEL_TOKEN_SECRET"  # noqa: S105  # see above
_TOKEN_PREVIOUS_VARIABLE = f"{TOKEN_SECRET_VARIABLE}_PREVIOUS"
_ANTHROPIC_URL = "https://api.anthropic.com"


class SecretNotStoredError(WorkbenchError):
    """The target does not take a secret, or takes a program that it had refused; the message says which."""


def kept(target: Target, name: str) -> str | None:
    """The copy of what a secret is for: of an app's own, what its callers must send. None when there is none here."""
    found = private_files.read(_path(target, name)).get("secret")
    return None if found is None else str(found)


def asks_scripted_model(target: Target, app_name: str) -> bool:
    """Whether the gateway of an app that was deployed from here asks the scripted model."""
    return private_files.read(_path(target, _gateway(app_name))).get("scripted") is True


def forget(target: Target, app_name: str) -> None:
    """Remove this machine's copies of an app's secrets."""
    for name in (app_name, _gateway(app_name)):
        _path(target, name).unlink(missing_ok=True)


@contextmanager
def stored(
    target: Target, app_name: str, model: Backing | None, *, rotate: bool, accepted: Callable[[], bool]
) -> Iterator[None]:
    """Have the secrets as a deployment needs them while the block deploys; when it raises, they are as they were.

    Secrets that are there already change only when the program was `accepted`; else the block is to say why it is not,
    with nothing changed. When it raises after that, what the model's service is given stays changed: what it was before
    is known to nobody. On rotation, the former values stay accepted for runs under way. Raises SecretNotStoredError.
    """
    changes = _changes(target, app_name, model, rotate=rotate)
    made: list[_Change] = []
    updated: list[_Change] = []
    try:
        made.extend(one for one in changes if _created(one))
        there = [one for one in changes if one not in made]
        if there and not accepted():
            yield
            raise SecretNotStoredError(f"'{app_name}' was deployed at last with the secrets as they were: deploy again")
        for one in there:
            updated.append(one)
            _update(one.name, one.values)
        for one in changes:
            private_files.write(one.path, one.copy)
        yield
    except BaseException:
        for one in changes:
            one.take_copy_back()
        with suppress(ModalError, SecretNotStoredError):  # the target is away, and accepts both secrets
            for one in made:
                modal.Secret.objects.delete(one.name, allow_missing=True)
            for one in updated:
                if one.former:
                    _update(one.name, one.former)
        raise


@dataclass(frozen=True, eq=False)
class _Change:
    """What becomes of one secret: its variables and this machine's copy, and what is known of them from before."""

    name: str
    path: Path
    values: dict[str, str]
    copy: dict[str, object]
    former: dict[str, str]
    former_copy: dict[str, object]

    def take_copy_back(self) -> None:
        if self.former_copy:
            private_files.write(self.path, self.former_copy)
        else:
            self.path.unlink(missing_ok=True)


def _changes(target: Target, app_name: str, model: Backing | None, *, rotate: bool) -> tuple[_Change, _Change]:
    paths = [_path(target, name) for name in (app_name, _gateway(app_name))]
    own, gateway = (private_files.read(path) for path in paths)
    callers = _Pair.of(own, rotate=rotate)
    signing = _Pair.of(gateway, rotate=rotate)
    had_model = gateway.get("model", True)
    return (
        _Change(
            app_name,
            paths[0],
            callers.values(SECRET_VARIABLE, PREVIOUS_VARIABLE)
            | {TOKEN_SECRET_VARIABLE: signing.secret if model is not None else ""},
            callers.copy(),
            callers.former(SECRET_VARIABLE, PREVIOUS_VARIABLE)
            | ({} if signing.known is None else {TOKEN_SECRET_VARIABLE: signing.known if had_model else ""}),
            own,
        ),
        _Change(
            _gateway(app_name),
            paths[1],
            signing.values(TOKEN_SECRET_VARIABLE, _TOKEN_PREVIOUS_VARIABLE)
            | {
                model_backing.UPSTREAM_URL_VARIABLE: model.url if model is not None else _ANTHROPIC_URL,
                model_backing.UPSTREAM_KEY_VARIABLE: model.key if model is not None else "",
            },
            {**signing.copy(), "scripted": isinstance(model, Scripted), "model": model is not None},
            signing.former(TOKEN_SECRET_VARIABLE, _TOKEN_PREVIOUS_VARIABLE),
            gateway,
        ),
    )


@dataclass(frozen=True)
class _Pair:
    """A secret, and the one before it, which is accepted until the next rotation; `known` of it as it was."""

    secret: str
    previous: str
    known: str | None
    known_previous: str

    @classmethod
    def of(cls, copy: Mapping[str, object], *, rotate: bool) -> "_Pair":
        """A copy's secret, or a new one where it is to change or there is none."""
        known = None if copy.get("secret") is None else str(copy["secret"])
        before = str(copy.get("previous", ""))
        if known is not None and not rotate:
            return cls(known, before, known, before)
        return cls(secrets.token_urlsafe(32), known or "", known, before)

    @property
    def _changes(self) -> bool:
        return self.secret != self.known

    def values(self, name: str, previous: str) -> dict[str, str]:
        return {name: self.secret} | ({previous: self.previous} if self._changes else {})

    def former(self, name: str, previous: str) -> dict[str, str]:
        if self.known is None:
            return {}
        return {name: self.known} | ({previous: self.known_previous} if self._changes else {})

    def copy(self) -> dict[str, object]:
        known: dict[str, object] = {"secret": self.secret}
        return known | ({"previous": self.previous} if self.previous else {})


def _gateway(app_name: str) -> str:
    return f"{app_name}-model"


def _created(change: _Change) -> bool:
    """Create a secret; False when there is one already, which stays as it is."""
    try:
        modal.Secret.objects.create(change.name, change.values)
    except AlreadyExistsError:
        return False
    except ModalError as error:
        raise _not_stored(change.name, error) from error
    return True


def _update(name: str, values: dict[str, str]) -> None:
    try:
        modal.Secret.from_name(name).update(values)
    except ModalError as error:
        raise _not_stored(name, error) from error


def _not_stored(name: str, error: ModalError) -> SecretNotStoredError:
    return SecretNotStoredError(f"the secret '{name}' could not be stored: {type(error).__name__}")


def _path(target: Target, name: str) -> Path:
    host = urlsplit(os.environ.get("MODAL_SERVER_URL", "")).hostname or "modal"
    return target.private / f"{'local' if target.kind == 'local' else host}-{name}.json"
