"""What is deployed, asked in Python and shown by the deploy panel: versions, health, secrets by name, changes."""

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.support.questions import Page
from workbench import DeployFailedError, TargetUnavailableError, Workbench, connect
from workbench.deployment import modal_command
from workbench.deployment.modal_command import ModalCommandFailedError
from workbench.widgets import DeployPanel
from workbench.widgets.deploy_panel import ChangeRefusedError


@pytest.fixture
def own(wb: Workbench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    """A workbench of an app that is not deployed yet."""
    monkeypatch.setenv("WORKBENCH_MIN_CONTAINERS", "0")  # none is started for versions that nobody calls
    with connect("local", app_name=f"panel-{uuid.uuid4().hex[:8]}") as workbench:
        yield workbench
        try:
            workbench.stop()
        except DeployFailedError:
            pass  # the test has


def test_a_deployment_from_its_first_version_to_its_end(own: Workbench) -> None:
    panel = DeployPanel(own)
    assert panel.settle(60)
    page = Page(panel)
    assert (panel.deployed["state"], panel.deployed["versions"]) == ("not deployed", [])
    assert [present for _, _, present in panel.deployed["secrets"]] == [False, False, False]
    for version in ("v1", "v2"):
        panel.deploy()
        with pytest.raises(ChangeRefusedError, match="deploying goes on"):
            panel.stop()
        assert "deploying …" in panel.still()["plain"]
        assert panel.settle(180)
        assert (panel.failed, panel.deployed["current"]) == (False, version), panel.lines
    assert panel.deployed["health"][0] is True
    assert [present for _, _, present in panel.deployed["secrets"]] == [True, True, True]
    secret = own.endpoint.secret.get_secret_value()
    assert secret not in str(panel.deployed) + str(panel.lines) + panel.still()["html"]
    page.says(type="rollback", version="v1")
    wait_until(lambda: panel.deployed.get("current") == "v3" and not panel.busy, "it was not rolled back")
    assert own.endpoint.secret.get_secret_value() == secret
    assert "v3" in panel.still()["html"]
    page.says(type="hello")
    wait_until(lambda: page.sent[-1][0].get("reset") is True, "the log was not sent")
    assert any("App deployed" in line for line in page.sent[-1][0]["lines"])
    page.says(type="stop")
    wait_until(lambda: panel.deployed.get("state") == "stopped" and not panel.busy, "it was not stopped")
    with pytest.raises(DeployFailedError, match="nothing is deployed"):
        _ = own.endpoint
    panel.close()


def test_a_change_that_fails_says_why_and_the_next_one_goes(own: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    panel = DeployPanel(own)
    monkeypatch.setenv("WORKBENCH_TIMEOUT_PROCESS_S", "5000")
    panel.deploy()
    assert panel.settle(180)
    assert panel.failed
    assert panel.result == "`modal deploy -m modal_app.app` failed with exit code 1; the log says why"
    assert "process_s" in panel.still()["plain"]
    panel.rollback("v9")
    assert panel.settle(60)
    assert "rollback" in panel.result
    assert "No App with name" in "\n".join(panel.lines)
    panel.close()


def test_an_endpoint_given_by_url_is_looked_at_and_not_changed(wb: Workbench) -> None:
    with Workbench.of(wb.endpoint) as own:
        panel = DeployPanel(own)
        assert panel.settle(60)
        assert (panel.can_change, panel.deployed["state"], panel.deployed["health"][0]) == (False, "given by URL", True)
        with pytest.raises(TargetUnavailableError, match="where it was deployed"):
            own.stop()
        panel.close()


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """The stock command with a module in front of it that never returns, as a network that hangs would have it."""
    (tmp_path / "modal").mkdir()
    (tmp_path / "modal" / "__init__.py").write_text("")
    (tmp_path / "modal" / "__main__.py").write_text(
        "import sys, threading\nprint('began', sys.argv[1:], flush=True)\nthreading.Event().wait()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    said: list[str] = []
    before = threading.active_count()
    with pytest.raises(ModalCommandFailedError, match=r"did not end within 2 s:\nbegan \['app', 'stop'\]"):
        modal_command.follow(["app", "stop"], env, timeout_s=2, on_line=said.append)
    assert said == ["began ['app', 'stop']"]
    with pytest.raises(ModalCommandFailedError, match="did not end within 2 s"):
        modal_command.ask(["app", "list"], env, timeout_s=2)
    assert threading.active_count() <= before
