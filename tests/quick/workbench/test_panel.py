"""The frame of every widget: no message waits for a cell, failures are told, without a kernel there is a picture."""

import html
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import traitlets

from tests.conftest import wait_until
from workbench import widgets
from workbench.widgets import base
from workbench.widgets.base import Buffers, Panel, front_end, sentence
from workbench.widgets.displays import Still

PATIENCE_S = 30
SHARED = Path(base.__file__).parent / "shared"
SHARED_STYLE = (SHARED / "shared.css").read_text()
WIDGETS = [getattr(widgets, name) for name in widgets.__all__]
WITHIN = {
    widgets.Launcher: [widgets.RunView],
    widgets.Replay: [widgets.RunView],
    widgets.RunsTable: [widgets.RunView],
    widgets.Files: [widgets.VolumeBrowser],
    widgets.WorkbenchPanel: WIDGETS[:-1],
}


class Echo(Panel):
    """Counts what it is asked for, and fails when it is asked to."""

    label = "Echo"
    heard = traitlets.List().tag(sync=True)

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.release = threading.Event()
        super().__init__()

    def handle(self, message: Mapping[str, Any], buffers: Buffers) -> None:
        self.threads.append(threading.current_thread().name)
        match message:
            case {"type": "fail", "why": str(why)}:
                raise ValueError(why)
            case {"type": "wait"}:
                assert self.release.wait(PATIENCE_S)
            case {"type": "say", "what": str(what)}:
                self.heard = [*self.heard, what]

    def still(self) -> Still:
        return Still(html=f"<b>{html.escape(str(self.heard))}</b>", plain=str(self.heard))


@pytest.fixture
def echo() -> Iterator[Echo]:
    panel = Echo()
    yield panel
    panel.release.set()
    panel.close()


def test_messages_are_handled_in_order_by_a_thread_of_the_widget(echo: Echo) -> None:
    """A cell that blocks holds them up as little as they hold up a cell."""
    for content in ({"type": "wait"}, {"type": "say", "what": "a"}, {"type": "say", "what": "b"}):
        echo._on_message(echo, content, [])
    assert echo.heard == []
    echo.release.set()
    wait_until(lambda: echo.heard == ["a", "b"], "the messages were not handled")
    assert threading.current_thread().name not in echo.threads


def test_what_fails_is_told_until_it_is_dismissed(echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    """In the page, and with its traceback in the log; the widget goes on."""
    with caplog.at_level(logging.WARNING, logger=base.__name__):
        echo._on_message(echo, {"type": "fail", "why": "no \x1b[2Jway"}, [])
        wait_until(lambda: bool(echo.problem), "the failure was not told")
    assert echo.problem == "ValueError: no \ufffd[2Jway"
    assert [record.exc_info is not None for record in caplog.records] == [True]
    echo._on_message(echo, {"type": "say", "what": "still here"}, [])
    wait_until(lambda: echo.heard == ["still here"], "it did not go on")
    assert echo.problem
    echo._on_message(echo, {"type": "dismiss"}, [])
    wait_until(lambda: not echo.problem, "it was not dismissed")


def test_what_takes_long_holds_up_no_message(echo: Echo) -> None:
    def work() -> None:
        assert echo.release.wait(PATIENCE_S)
        raise OSError("late")

    echo.in_background(work)
    echo._on_message(echo, {"type": "say", "what": "meanwhile"}, [])
    wait_until(lambda: echo.heard == ["meanwhile"], "the message waited")
    echo.release.set()
    wait_until(lambda: echo.problem == "OSError: late", "the failure was not told")


def test_what_is_no_message_is_ignored_and_a_closed_widget_hears_none(echo: Echo) -> None:
    for content in (None, [], "say", 3):
        echo._on_message(echo, content, [])
    assert echo.threads == []
    echo.close()
    echo.close()
    echo._on_message(echo, {"type": "say", "what": "late"}, [])
    echo.soon(lambda: echo.threads.append("late"))
    assert echo.threads == []


def test_a_reader_without_a_kernel_sees_the_still_picture(echo: Echo) -> None:
    echo.heard = ["<script>"]
    data, _ = echo._repr_mimebundle_()
    assert data["text/html"] == "<b>[&#x27;&lt;script&gt;&#x27;]</b>"
    assert data["text/plain"] == "['<script>']"
    assert "application/vnd.jupyter.widget-view+json" in data
    echo.close()
    closed, _ = echo._repr_mimebundle_()
    assert set(closed) == {"text/html", "text/plain"}


def test_our_own_errors_say_what_to_do_and_others_what_they_are() -> None:
    from workbench.deployment.targets import TargetUnavailableError

    assert sentence(TargetUnavailableError("run `modal token new`")) == "run `modal token new`"
    assert sentence(KeyError("x")) == "KeyError: 'x'"
    assert sentence(TimeoutError()) == "TimeoutError"


def test_the_front_end_is_the_shared_file_and_the_widgets_own(tmp_path: Path) -> None:
    folder = tmp_path / "thing"
    folder.mkdir()
    (folder / "thing.js").write_text("export default 1;")
    (folder / "thing.css").write_text(".thing { }")
    (folder / "part.js").write_text("const part = 1;")
    script, style = front_end(str(folder / "__init__.py"), "part.js")
    assert script.startswith("// What the drawing of every widget shares")
    assert script.endswith("const part = 1;\nexport default 1;")
    assert style.endswith(".thing { }")


@pytest.mark.parametrize("widget", WIDGETS, ids=lambda widget: widget.__name__)
def test_a_widgets_styles_reach_no_other_widget(widget: type[Panel]) -> None:
    """All of them are in one page, and some stand within others."""
    own = re.findall(r'export default widget\("(\w+)"', widget._esm)[-1]
    style = widget._css.removeprefix((SHARED / "shared.css").read_text())
    selectors = [
        one.strip() for rule in re.findall(r"([^{}]+)\{[^{}]*\}", style) for one in re.split(r", (?=\.)", rule)
    ]
    assert selectors
    assert [one for one in selectors if not one.startswith(f".wb-{own} ")] == []
    named = set(re.findall(r"\.(wb-[\w-]+)", style)) - {f"wb-{own}"} - set(re.findall(r"\.(wb-[\w-]+)", SHARED_STYLE))
    for inner in WITHIN.get(widget, ()):
        drawn = set(re.findall(r"\bwb-[\w-]+", inner._esm.removeprefix((SHARED / "shared.js").read_text())))
        assert named & drawn == set(), inner.__name__


@pytest.mark.parametrize("widget", WIDGETS, ids=lambda widget: widget.__name__)
def test_widths_and_themes_are_apart(widget: type[Panel]) -> None:
    """A page's width changes no colour, and a theme only colours: so pages are examined for each of them apart."""
    style = re.sub(r"/\*.*?\*/", "", widget._css, flags=re.DOTALL)
    narrow = re.findall(r"@(?:media|container)[^{]*\{((?:[^{}]*\{[^{}]*\})*)[^{}]*\}", style)
    assert len(narrow) == len(re.findall("@media|@container", style))
    assert [one for one in narrow if re.search(r"colou?r|background|opacity|filter|var\(|--", one)] == []
    for selectors, rule in re.findall(r"([^{}]+)\{([^{}]*)\}", style):
        if "theme" in selectors:
            names = [one.partition(":")[0].strip() for one in rule.split(";") if one.strip()]
            assert all(name.startswith("--wb-") for name in names), selectors
    assert re.findall(r"data-jp-theme|jpTheme|matchMedia|prefers-color", widget._esm) == []
