"""What is deployed, in JupyterLab: deployed, brought back, stopped, with the log as it comes and questions before."""

import json
import uuid

import pytest
from playwright.sync_api import expect

from tests.standard.browser.cells import PATIENCE_MS, again
from tests.standard.browser.conftest import JupyterPages, dark, picture
from tests.support.commands import Cli

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
DEPLOY_MS = 180_000
BROKEN = "WORKBENCH_TIMEOUT_PROCESS_S"


def test_deploy_roll_back_and_stop(desk: JupyterPages, modal_cli: Cli) -> None:
    """The panel leads there when nothing is deployed; what fails says why, and the next change goes."""
    app = f"panel-{uuid.uuid4().hex[:8]}"
    whole = desk.show(f"import workbench\nworkbench.open(app_name={app!r})").locator(".wb-workbench")
    missing = whole.locator(".wb-missing")
    expect(missing).to_contain_text(f"nothing is deployed as '{app}'", timeout=PATIENCE_MS)
    whole.get_by_role("tab", name="Files", exact=True).click()
    expect(whole.locator(".wb-files")).to_contain_text("run `workbench deploy`", timeout=PATIENCE_MS)
    picture(whole, "tab-nothing-deployed")
    missing.get_by_role("button", name="Go to Deployment").click()
    view = whole.locator(".wb-deploy")
    state = view.locator(".wb-state")
    deploy = view.get_by_role("button", name="Deploy the endpoint")
    expect(state).to_have_text("not deployed", timeout=PATIENCE_MS)
    expect(view.get_by_text("missing").first).to_be_visible()
    picture(view, "deploy-nothing")

    desk.execute(f"import os; os.environ[{BROKEN!r}] = '5000'")
    deploy.click()
    expect(view.locator(".wb-doing")).to_have_text("deploying …", timeout=PATIENCE_MS)
    expect(view.locator(".wb-result")).to_contain_text("the log says why", timeout=DEPLOY_MS)
    expect(view.locator(".wb-lines")).to_contain_text("process_s")
    picture(view, "deploy-failed")
    desk.execute(f"del os.environ[{BROKEN!r}]")

    for version in ("v1", "v2"):
        expect(deploy).to_be_enabled(timeout=PATIENCE_MS)
        deploy.click()
        expect(state).to_have_text(f"deployed {version}", timeout=DEPLOY_MS)
    expect(view.locator(".wb-lines")).to_contain_text("Created function", ignore_case=True)
    expect(view.get_by_text("healthy", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    whole.get_by_role("tab", name="Files", exact=True).click()
    expect(whole.get_by_text("nothing is committed yet")).to_be_visible(timeout=PATIENCE_MS)
    expect(missing).to_be_hidden()
    whole.get_by_role("tab", name="Deployment").click()
    again(desk.page)
    expect(view.locator(".wb-lines")).to_contain_text("done: deployed at", timeout=PATIENCE_MS)
    view.get_by_role("button", name="Roll back to v1").click()
    picture(view, "deploy-question")
    view.get_by_role("button", name="roll back", exact=True).click()
    expect(state).to_have_text("deployed v3", timeout=DEPLOY_MS)
    with dark(desk.page):
        picture(view, "deploy-versions")
        view.get_by_role("button", name="Stop the app").click()
        view.get_by_role("button", name="Do nothing").click()
        expect(state).to_have_text("deployed v3")
        view.get_by_role("button", name="Stop the app").click()
        view.get_by_role("button", name="stop it").click()
        expect(state).to_have_text("stopped", timeout=DEPLOY_MS)
        picture(view, "deploy-stopped")
    whole.get_by_role("tab", name="Launch", exact=True).click()
    expect(missing).to_be_visible(timeout=PATIENCE_MS)
    states = {one["description"]: one["state"] for one in json.loads(modal_cli("app", "list", "--json"))}
    assert states[app] == "stopped"
