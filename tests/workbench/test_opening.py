"""`workbench.open()`, `%workbench` and JupyterLab's way to it."""

import json
import sys
from pathlib import Path

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import workbench
from tests.conftest import wait_until
from workbench import Workbench
from workbench.widgets import Whole
from workbench.widgets.whole import TABS

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = ROOT / "workbench" / "labextension"


def test_everything_is_in_one_panel(wb: Workbench) -> None:
    panel = workbench.open(wb)
    assert isinstance(panel, Whole)
    assert [tab["key"] for tab in panel.tabs] == [tab.key for tab in TABS]
    panel._on_message(panel, {"type": "show", "key": "replay"}, [])
    wait_until(lambda: panel.chosen == "replay", "the tab was not chosen")
    panel.show("launch")
    with pytest.raises(KeyError):
        panel.show("nothing")
    data, _ = panel._repr_mimebundle_()
    for tab in TABS:
        assert tab.title in data["text/html"]
        assert tab.title in data["text/plain"]
    panel.close()
    assert wb.endpoint.url  # a connection that was there before stays


def test_the_magic_opens_a_target(wb: Workbench) -> None:
    """As in a notebook: `%load_ext workbench`, then `%workbench`."""
    shell = InteractiveShell.instance()
    try:
        shell.run_line_magic("load_ext", "workbench")
        panel = shell.run_line_magic("workbench", f"local {wb.app_name}")
        assert (panel.workbench.target.kind, panel.workbench.app_name) == ("local", wb.app_name)
        assert panel.workbench.endpoint.url == wb.endpoint.url
        panel.close()
        with pytest.raises(UsageError):
            shell.run_line_magic("workbench", "local app more")
    finally:
        InteractiveShell.clear_instance()


def test_a_star_import_does_not_hide_the_builtin() -> None:
    assert "open" in dir(workbench)
    assert "open" not in workbench.__all__


def test_jupyterlab_has_the_extension_as_it_stands_here() -> None:
    """Installed with the package: after a change, `uv sync --reinstall-package modal-workbench`."""
    installed = Path(sys.prefix) / "share" / "jupyter" / "labextensions" / "modal-workbench"
    for path in EXTENSION.rglob("*.js*"):
        assert (installed / path.relative_to(EXTENSION)).read_bytes() == path.read_bytes(), path
    package = json.loads((EXTENSION / "package.json").read_text())
    assert (EXTENSION / package["jupyterlab"]["_build"]["load"]).is_file()
