"""Deploying through the workbench: targets, secrets, rotation."""

import json
import stat

import httpx
import pytest

from workbench import DeployFailedError, Project, TargetUnavailableError, Workbench, connect
from workbench.deployment import deploy as deployment
from workbench.deployment.targets import resolve


def test_the_callers_copy_of_the_secret_is_its_owners_only(wb: Workbench) -> None:
    (path,) = wb.target.private.glob(f"*{wb.app_name}.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert json.loads(path.read_text()) == {"secret": wb.endpoint.secret.get_secret_value()}


def test_deploying_again_keeps_the_secret_and_rotation_accepts_both(
    wb: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_MIN_CONTAINERS", "0")  # none is started for versions that nobody calls
    with connect("local", app_name="rotation-tests") as own:
        first = own.deploy()
        assert own.deploy() == first
        second = own.deploy(rotate_secret=True)
        assert second.secret != first.secret
        project = Project.new()
        body = {"user_id": project.user_id, "project_id": project.project_id, "action": "files", "op": "list"}
        for endpoint in (first, second):
            headers = {"X-Modal-Secret": endpoint.secret.get_secret_value()}
            assert httpx.post(f"{second.url}/generate", json=body, headers=headers, timeout=60).status_code == 200
        third = own.deploy(rotate_secret=True)
        headers = {"X-Modal-Secret": first.secret.get_secret_value()}
        assert httpx.post(f"{third.url}/generate", json=body, headers=headers, timeout=60).status_code == 401
        own.stop()


def test_what_is_not_deployed_is_told(wb: Workbench) -> None:
    with connect("local", app_name="never-deployed") as own, pytest.raises(DeployFailedError, match="workbench deploy"):
        own.launch(Project.new(), "python", code="1")


def test_a_deployment_whose_secret_is_not_here_is_not_called_absent(wb: Workbench) -> None:
    (path,) = wb.target.private.glob(f"*{wb.app_name}.json")
    aside = path.rename(path.with_suffix(".aside"))
    try:
        with (
            connect("local", app_name=wb.app_name) as own,
            pytest.raises(DeployFailedError, match=f"no copy of its secret: set {deployment.SECRET_VARIABLE}"),
        ):
            own.launch(Project.new(), "python", code="1")
    finally:
        aside.rename(path)


def test_a_deployment_that_fails_says_what_the_sdk_said(wb: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_TIMEOUT_PROCESS_S", "5000")
    with connect("local", app_name="broken-tests") as own, pytest.raises(DeployFailedError, match="process_s"):
        own.deploy()


@pytest.mark.parametrize("name", ["nowhere", "", "ftp://x", "http://"])
def test_an_unknown_target_is_told(name: str) -> None:
    with pytest.raises(TargetUnavailableError, match="local, modal"):
        resolve(name)


def test_modal_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODAL_SERVER_URL", raising=False)
    monkeypatch.delenv("MODAL_TOKEN_ID", raising=False)
    with pytest.raises(TargetUnavailableError, match="modal token new"):
        resolve("modal")


def test_modal_is_never_confused_with_a_local_cloud(wb: Workbench) -> None:
    with pytest.raises(TargetUnavailableError, match="MODAL_SERVER_URL"):
        resolve("modal")


def test_an_endpoint_by_address_is_used_and_not_deployed(wb: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(deployment.SECRET_VARIABLE, raising=False)
    with connect(wb.endpoint.url) as own:
        with pytest.raises(TargetUnavailableError, match=deployment.SECRET_VARIABLE):
            own.launch(Project.new(), "files", op="list")
        monkeypatch.setenv(deployment.SECRET_VARIABLE, wb.endpoint.secret.get_secret_value())
        assert own.launch(Project.new(), "files", op="list").wait(60).type == "done"
        with pytest.raises(TargetUnavailableError):
            own.deploy()
        with pytest.raises(TargetUnavailableError):
            own.volume(Project.new())
