"""The static forms of widgets: beside the widget where a page draws it, alone elsewhere, always its last state."""

from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import traitlets

from tests.conftest import wait_until
from workbench.widgets import displays
from workbench.widgets.base import Buffers, Panel
from workbench.widgets.displays import Still, page_draws

VIEW = "application/vnd.jupyter.widget-view+json"
LAB = {"content": {"allow_stdin": True}, "metadata": {"cellId": "a"}}
NBCLIENT = {"content": {"allow_stdin": False}, "metadata": {}}


class Said(Panel):
    """Shows a word, and perhaps another widget within it."""

    label = "Said"
    word = traitlets.Unicode("first").tag(sync=True)

    def __init__(self, within: Panel | None = None) -> None:
        self.within = within
        super().__init__()

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        pass

    def inner(self) -> Iterable[Panel]:
        return () if self.within is None else (self.within,)

    def still(self) -> Still:
        words = " ".join([self.word, *(one.still()["plain"] for one in self.inner())])
        return Still(html=f"<b>{words}</b>", plain=words)


class Notebook:
    """Whoever runs the cell, by its request, and what has been displayed for it: bundles and updates by their names."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.shown: list[dict[str, str]] = []
        self.now: dict[str, dict[str, str]] = {}
        self.updates = 0
        events = SimpleNamespace(register=lambda *_: None)
        kernel = SimpleNamespace(get_parent=lambda _channel: request)
        self.shell = SimpleNamespace(kernel=kernel, events=events, __weakref__=None)

    def display(self, bundle: dict[str, str], *, display_id: str = "", update: bool = False, **options: Any) -> None:
        self.updates += update
        if not update:
            self.shown.append(bundle)
        if display_id:
            self.now[display_id] = bundle

    def says(self, text: str) -> bool:
        """Whether every static form says just this."""
        return {one["text/plain"] for one in self.now.values()} == {text}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Any]], Notebook]:
    def opened(request: Mapping[str, Any]) -> Notebook:
        notebook = Notebook(request)
        monkeypatch.setattr(displays, "get_ipython", lambda: notebook.shell)
        monkeypatch.setattr(displays, "display", notebook.display)
        monkeypatch.setattr(displays, "_watched", [notebook.shell])
        return notebook

    return opened


@pytest.mark.parametrize(
    ("request_", "draws"),
    [
        (LAB, True),
        ({"content": {"allow_stdin": True}, "metadata": {}}, True),
        ({"content": {"allow_stdin": False}, "metadata": {"cellId": "vscode-notebook-cell:a"}}, True),
        ({"content": {"comm_id": "a"}, "metadata": {}}, True),
        ({}, True),
        (None, True),
        (NBCLIENT, False),
        ({"content": {"allow_stdin": False}}, False),
    ],
)
def test_whoever_names_cells_or_can_be_asked_draws_widgets(
    opened: Callable[..., Notebook], request_: Mapping[str, Any], draws: bool
) -> None:
    opened(request_)
    assert page_draws() is draws


def test_voila_draws_widgets_and_a_terminal_does_not(
    opened: Callable[..., Notebook], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(NBCLIENT)
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.10")
    assert page_draws()
    monkeypatch.setattr(displays, "get_ipython", lambda: SimpleNamespace())
    assert not page_draws()
    monkeypatch.setattr(displays, "get_ipython", lambda: None)
    assert not page_draws()


def test_beside_a_widget_stands_its_static_form_and_the_widget_says_nothing_twice(
    opened: Callable[..., Notebook],
) -> None:
    notebook = opened(LAB)
    said = Said()
    said._ipython_display_()
    said._ipython_display_()
    view, still = notebook.shown[:2]
    assert view[VIEW]["model_id"] == said.own_id  # type: ignore[index]
    assert (view["text/html"], view["text/plain"]) == ("", "")
    assert set(still) == {"text/html", "text/plain"}
    assert f'data-workbench-still="{said.own_id}"' in still["text/html"]
    assert "<b>first</b>" in still["text/html"]
    said.word = "second"
    wait_until(lambda: notebook.says("second"), "the static forms stayed behind")
    assert len(notebook.now) == 2
    assert len(notebook.shown) == 4  # the widget itself is not displayed again
    said.close()


def test_what_changes_within_a_widget_changes_its_static_form(opened: Callable[..., Notebook]) -> None:
    notebook = opened(LAB)
    deepest = Said()
    other, outer = Said(), Said(Said(deepest))
    outer._ipython_display_()
    wait_until(lambda: not outer._renewing, "it was not looked at")
    other.word = "elsewhere"
    assert not outer._renewing
    deepest.word = "changed"
    wait_until(lambda: notebook.says("first first changed"), "the static form stayed behind")
    updates = notebook.updates
    outer.display_again()
    outer.problem = "not in the static form"
    wait_until(lambda: not outer._renewing, "it was not looked at")
    assert notebook.updates == updates


def test_a_closed_widget_leaves_its_last_state(opened: Callable[..., Notebook]) -> None:
    notebook = opened(LAB)
    said = Said()
    said._ipython_display_()
    said.word = "last"
    said.close()
    wait_until(lambda: notebook.says("last"), "the static form stayed behind")
    said._ipython_display_()
    assert [VIEW in one for one in notebook.shown] == [True, False, False]
    assert notebook.shown[-1] == {"text/html": "<b>last</b>", "text/plain": "last"}  # it gives way to no other widget


def test_a_page_that_was_loaded_again_is_told_by_the_widget(opened: Callable[..., Notebook]) -> None:
    """It hears of no display that was made before."""
    opened(LAB)
    said = Said()
    told: list[Any] = []
    said.send = lambda content, buffers=None: told.append(content)  # type: ignore[method-assign]
    said._ipython_display_()
    said._on_message(said, {"type": "hello"}, [])
    said.word = "second"
    wait_until(lambda: said._stills.bundle()["text/plain"] == "second", "the static form stayed behind")
    assert told == []
    said._on_message(said, {"type": "hello"}, [])
    wait_until(lambda: len(told) == 1, "the page was not told")
    said.word = "third"
    wait_until(lambda: len(told) == 2, "the page was not told")
    assert [(one["type"], one["bundle"]["text/plain"]) for one in told] == [("still", "second"), ("still", "third")]
    said.close()


def test_where_no_page_draws_it_the_static_form_stands_alone_and_is_renewed_at_the_end_of_a_cell(
    opened: Callable[..., Notebook],
) -> None:
    notebook = opened(NBCLIENT)
    said = Said()
    said._ipython_display_()
    assert notebook.shown == [{"text/html": "<b>first</b>", "text/plain": "first"}]
    said.word = "second"
    assert notebook.updates == 0
    said.display_again()
    assert notebook.says("second")
    said.display_again()
    assert notebook.updates == 1
    said.close()


def test_a_static_form_that_fails_stays_as_it_was(
    opened: Callable[..., Notebook], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    notebook = opened(LAB)
    said = Said()
    said._ipython_display_()
    with monkeypatch.context() as patch:
        patch.setattr(said, "still", lambda: 1 / 0)
        said.word = "second"
        wait_until(lambda: "static form was not brought up to date" in caplog.text, "it was not told")
    assert notebook.says("first")
    assert said.problem == ""
    said.word = "third"
    wait_until(lambda: notebook.says("third"), "it did not go on")
    said.close()
