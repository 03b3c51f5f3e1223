"""What readers without a kernel see of widgets, offline: each one's last state, once, wherever it was displayed."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.standard.browser.cells import again
from tests.standard.browser.conftest import LONG, Lab, new_page, picture, run_all, settled, wait_for_kernel
from tests.support.paths import ROOT
from workbench import notebooks

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
STATE = "application/vnd.jupyter.widget-state+json"
PLAYED = """from tests.standard.browser import events
from workbench.widgets import Replay
replay = Replay(events.claude_run())
replay"""
TWICE = "display(replay.view)\nprint('between')\ndisplay(replay)"
LAST = "replay.playback.seek(10**9)"
DISPLAYS = 3
SHOWN = "I will write a small web page with a clock."


def command(*words: str, directory: Path) -> None:
    """A program of Jupyter's, run on a notebook as whoever has installed it runs it."""
    whole = [sys.executable, "-m", *words]
    done = subprocess.run(whole, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def exported(path: Path, to: str = "html") -> Path:
    """What plain nbconvert makes of a notebook."""
    name = f"exported-{to}"
    command("nbconvert", "--to", to, path.name, "--output", name, directory=path.parent)
    return next(path.parent.glob(f"{name}.*"))


def by_papermill(path: Path) -> Path:
    return notebooks.run(path, output_dir=path.parent / "out", cell_timeout_s=120).output


def by_jupyter_execute(path: Path) -> Path:
    command("jupyter", "execute", "--inplace", path.name, directory=path.parent)
    return path


def by_nbconvert(path: Path) -> Path:
    command("nbconvert", "--to", "notebook", "--execute", "--inplace", path.name, directory=path.parent)
    return path


@pytest.fixture
def offline(browser: Browser) -> Iterator[Callable[[Path], Page]]:
    """Opens a file as whoever has nothing but the file."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 1400})

    def opened(path: Path) -> Page:
        page = context.new_page()
        page.goto(path.as_uri())
        return page

    yield opened
    context.close()


def shows_the_last_state(page: Page, name: str, *, displays: int = DISPLAYS) -> None:
    """Each display is there once, as it was at last."""
    stills = page.locator(".workbench-run:visible")
    expect(stills).to_have_count(displays, timeout=LONG)
    for number in range(displays):
        for text in ("done", SHOWN, "exit code 0"):
            expect(stills.nth(number)).to_contain_text(text)
    expect(page.locator(".wb:visible")).to_have_count(0)
    expect(page.get_by_text(re.compile("Error displaying|Loading widget")).locator("visible=true")).to_have_count(0)
    picture(page, f"still-{name}")


@pytest.mark.parametrize("execute", [by_papermill, by_jupyter_execute, by_nbconvert])
def test_a_program_that_runs_notebooks_leaves_what_every_reader_shows(
    execute: Callable[[Path], Path],
    offline: Callable[[Path], Page],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The widgets' state is there all the same, for which nbconvert would leave them to a script from elsewhere."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (PLAYED, TWICE, LAST)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "widgets.ipynb")
    executed = execute(tmp_path / "widgets.ipynb")
    saved = nbformat.read(executed, as_version=4)
    models = saved.metadata.widgets[STATE]["state"].values()
    assert {one["state"]["condition"] for one in models if "reconnects" in one["state"]} == {"done"}
    shown = [out.data for cell in saved.cells for out in cell.outputs if "data" in out]
    assert [set(data) for data in shown] == [{"text/html", "text/plain"}] * DISPLAYS
    assert all("done" in data["text/plain"] and SHOWN in data["text/plain"] for data in shown)
    shows_the_last_state(offline(exported(executed)), execute.__name__)
    if execute is by_papermill:
        assert exported(executed, "markdown").read_text().count(SHOWN) == DISPLAYS


WATCHED = """() => {
    const seen = (chosen) => [...document.querySelectorAll(chosen)].some((node) => node.checkVisibility());
    window.stillSeen = false;
    const look = () => {
        window.stillSeen ||= seen("[data-workbench-still]");
        requestAnimationFrame(look);
    };
    look();
}"""


def saves_state(page: Page, *, wanted: bool) -> None:
    """Change JupyterLab's setting to save widgets' state, which is the same for every page of the session."""
    name = "@jupyter-widgets/jupyterlab-manager:saveWidgetState"
    page.evaluate(
        """([name, wanted]) => {
            const { commands } = window.jupyterapp;
            if (commands.isToggled(name) !== wanted) return commands.execute(name).then(() => true);
        }""",
        [name, wanted],
    )
    page.wait_for_function(
        "([name, wanted]) => window.jupyterapp.commands.isToggled(name) === wanted", arg=[name, wanted]
    )


@contextmanager
def saving_state(page: Page, *, wanted: bool) -> Iterator[None]:
    saves_state(page, wanted=wanted)
    try:
        yield
    finally:
        saves_state(page, wanted=False)


def wait_for_stills(page: Page) -> None:
    """Return when the notebook that the page holds has the last state in each static form."""
    page.wait_for_function(
        """count => [...window.jupyterapp.shell.currentWidget.content.model.cells]
            .flatMap(({ outputs }) => outputs?.toJSON() ?? [])
            .filter(({ data }) => String(data?.["text/plain"] ?? "").includes("exit code 0")).length === count""",
        arg=DISPLAYS,
        timeout=LONG,
    )


def end_kernel(page: Page) -> None:
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


@pytest.mark.parametrize("with_state", [False, True], ids=["state not saved", "state saved"])
def test_a_page_shows_the_widget_alone_and_the_notebook_that_it_saves_the_last_state(
    browser: Browser, lab: Lab, page: Page, offline: Callable[[Path], Page], tmp_path: Path, with_state: bool
) -> None:
    """Never both, not for a moment: while it runs, in a clone of an output, in a page that was loaded again.

    The saved notebook shows it offline, and in JupyterLab with a new kernel, which knows nothing of the widgets.
    """
    name = lab.write(PLAYED, TWICE)
    page.goto(lab.address(name))
    wait_for_kernel(page)
    page.evaluate(WATCHED)
    run_all(page)
    expect(page.locator(".wb-replay")).to_have_count(2, timeout=LONG)
    settled(page)
    again(page)
    page.evaluate(WATCHED)
    expect(page.locator(".wb-replay").first).to_be_visible(timeout=LONG)
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 0; }")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:create-output-view'); }")
    expect(page.locator(".wb-replay")).to_have_count(3, timeout=LONG)
    page.locator(".wb-place").first.focus()
    page.keyboard.press("End")
    expect(page.locator(".wb-run").first).to_have_attribute("data-condition", "done", timeout=LONG)
    page.locator(".jp-Notebook").first.click()
    wait_for_stills(page)
    assert page.evaluate("() => window.stillSeen") is False
    picture(page, "still-beside-live")
    with saving_state(page, wanted=with_state):
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        end_kernel(page)
    saved = nbformat.read(lab.directory / name, as_version=4)
    assert ("widgets" in saved.metadata) is with_state
    (tmp_path / name).write_bytes((lab.directory / name).read_bytes())
    shown = f"jupyterlab-{'with' if with_state else 'without'}-state"
    shows_the_last_state(offline(exported(tmp_path / name)), f"{shown}-exported")
    problems: list[str] = []
    with new_page(browser, problems) as later:
        later.goto(lab.address(name))
        wait_for_kernel(later)
        shows_the_last_state(later, f"{shown}-opened")
        end_kernel(later)
    assert problems == []


def test_a_widget_that_is_closed_leaves_its_last_state(lab: Lab, page: Page) -> None:
    page.goto(lab.address(lab.write(PLAYED, TWICE, LAST, "replay.close()")))
    wait_for_kernel(page)
    run_all(page)
    shows_the_last_state(page, "closed")
    end_kernel(page)
