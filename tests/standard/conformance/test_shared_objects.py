"""Dicts and queues are where functions and their callers meet."""

from collections.abc import Iterator

import modal
import pytest

from tests.support.commands import Cli
from tests.support.paths import APPS

APP = APPS / "mailbox.py"
LONG_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def deployed(modal_cli: Cli) -> Iterator[None]:
    modal.Dict.objects.create("mailbox-words", allow_existing=True)
    modal.Queue.objects.create("mailbox-letters", allow_existing=True)
    modal_cli("deploy", str(APP))
    yield
    modal_cli("app", "stop", "mailbox", "--yes")
    modal.Dict.objects.delete("mailbox-words")
    modal.Queue.objects.delete("mailbox-letters")


def function(name: str) -> modal.Function:
    return modal.Function.from_name("mailbox", name)


def test_a_function_shares_objects_by_name_with_its_callers() -> None:
    """The function waits for its letters in its container while the caller writes them, and the other way round."""
    modal.Dict.from_name("mailbox-words").update({"blau": "blue", "rot": "red"})
    letters = modal.Queue.from_name("mailbox-letters")
    call = function("translate").spawn(3)
    for word in ("rot", "blau", "lila"):
        letters.put(("me", word))
    assert [letters.get(timeout=LONG_S, partition="me") for _ in range(3)] == ["red", "blue", "?"]
    assert call.get(timeout=LONG_S) == 3


def test_ephemeral_objects_reach_a_function_by_id_and_as_arguments() -> None:
    with modal.Dict.ephemeral() as words, modal.Queue.ephemeral() as letters:
        function("keep").remote(words.object_id, letters.object_id, "value")
        assert words["kept"] == "value"
        assert tuple(function("take").remote(words, letters)) == ("value", "value")
        assert letters.len() == 0


def test_values_may_hold_other_objects() -> None:
    with modal.Dict.ephemeral() as words, modal.Queue.ephemeral() as letters:
        words["letters"] = letters
        letters.put(words)
        words["letters"].get()["note"] = "through both"
        assert words["note"] == "through both"
