"""What is deployed, in JupyterLab: deployed, brought back, stopped, with the log as it comes and questions before."""

import uuid

import pytest
from playwright.sync_api import Page, expect

from tests.browser.cells import PATIENCE_MS, again, pictures
from tests.browser.conftest import Lab, opened
from tests.conftest import Cli
from workbench import Workbench

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
DEPLOY_MS = 180_000


def test_deploy_roll_back_and_stop(lab: Lab, page: Page, wb: Workbench, modal_cli: Cli) -> None:
    """The cell is free while it deploys, and another cell that blocks holds up nothing."""
    app = f"panel-{uuid.uuid4().hex[:8]}"
    opened(
        lab,
        page,
        f"import time, workbench\nfrom workbench.widgets import DeployPanel\nwb = workbench.connect(app_name={app!r})",
        "panel = DeployPanel(wb)\npanel",
    )
    view = page.locator(".wb-deploy")
    state = view.locator(".wb-state")
    expect(state).to_have_text("not deployed", timeout=PATIENCE_MS)
    expect(view.get_by_text("missing").first).to_be_visible()
    pictures(view, "deploy-nothing")
    view.get_by_role("button", name="Deploy the endpoint").click()
    expect(view.locator(".wb-doing")).to_have_text("deploying …", timeout=PATIENCE_MS)
    expect(view.locator(".wb-lines")).to_contain_text("Created function", timeout=DEPLOY_MS, ignore_case=True)
    expect(state).to_have_text("deployed v1", timeout=DEPLOY_MS)
    expect(view.get_by_text("healthy", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    view.get_by_role("button", name="Deploy the endpoint").click()
    expect(state).to_have_text("deployed v2", timeout=DEPLOY_MS)
    again(page)
    expect(view.locator(".wb-lines")).to_contain_text("done: deployed at", timeout=PATIENCE_MS)
    view.get_by_role("button", name="Roll back to v1").click()
    pictures(view, "deploy-question")
    view.get_by_role("button", name="roll back", exact=True).click()
    expect(state).to_have_text("deployed v3", timeout=DEPLOY_MS)
    pictures(view, "deploy-versions")
    view.get_by_role("button", name="Stop the app").click()
    view.get_by_role("button", name="Do nothing").click()
    expect(state).to_have_text("deployed v3")
    view.get_by_role("button", name="Stop the app").click()
    view.get_by_role("button", name="stop it").click()
    expect(state).to_have_text("stopped", timeout=DEPLOY_MS)
    assert app not in modal_cli("app", "list", "--json").split('"state": "deployed"')[0]
    view.locator(".wb-log summary").click()
    pictures(view, "deploy-stopped")


def test_a_deployment_that_fails_says_why(lab: Lab, page: Page, wb: Workbench) -> None:
    opened(
        lab,
        page,
        "import os, workbench\nfrom workbench.widgets import DeployPanel\n"
        "os.environ['WORKBENCH_TIMEOUT_PROCESS_S'] = '5000'\n"
        "panel = DeployPanel(workbench.connect(app_name='broken-panel'))\npanel.deploy()\npanel",
    )
    view = page.locator(".wb-deploy")
    expect(view.locator(".wb-result")).to_contain_text("the log says why", timeout=DEPLOY_MS)
    expect(view.locator(".wb-lines")).to_contain_text("process_s")
    pictures(view, "deploy-failed")
